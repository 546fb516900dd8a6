import { agreesWith, isProbed } from "./agreement.ts";
import { declarationPieces, isMapping, mappingPieces, quoted } from "./gemma4_notation.ts";
import { gemma4Parser } from "./gemma4_parser.ts";
import { joinPieces, marked, plain, promptWriter, textOf } from "./pieces.ts";
import { gemma4Shape } from "./shapes.ts";
import { chatTemplate } from "./template.ts";
import type {
  ChatFormat,
  ChatMessage,
  ChatOptions,
  ChatTokenizer,
  ChatToolCall,
  PromptPiece,
} from "./types.ts";

/** Marks of the format, some of which files call user-defined tokens, not control tokens. */
const MARKS: readonly string[] = [
  ...["<bos>", "<eos>", "<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>", '<|"|>'],
  ...["<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>"],
  ...["<|image|>", "<|audio|>", "<|video|>", "<|image>", "<image|>", "<|audio>", "<audio|>"],
];

export type Gemma4Options = {
  /** The model file's template; without it the built-in renderer writes. */
  readonly template?: string;
  /** Where thinking is off, an answer begins behind an empty thought: the larger models were trained so. */
  readonly emptyThought: boolean;
};

/** The format of Gemma 4. */
export function gemma4Format(tokenizer: ChatTokenizer, options: Gemma4Options): ChatFormat {
  const { template: source, emptyThought } = options;
  const template = source === undefined ? undefined : chatTemplate(source, tokenizer, MARKS);
  // there a result can be an object, and in older templates nowhere else
  const folds = source?.includes("tool_responses") ?? false;
  const id = (mark: string): number | undefined => tokenizer.idOf(mark);
  const [open, close, turn] = [id("<|channel>"), id("<channel|>"), id("<|turn>")];
  const reasoning = open !== undefined && close !== undefined;
  const calls = id("<|tool_call>") !== undefined && id("<tool_call|>") !== undefined;
  const throughTemplate = (messages: readonly ChatMessage[], chat: ChatOptions): PromptPiece[] => {
    const write = (talk: readonly ChatMessage[]): PromptPiece[] => template?.render(talk, chat) ?? [];
    const question = (): string => textOf(write([{ role: "user", content: "a" }]));
    return withOpenTurn(write(folds ? withResults(messages).map(folded) : messages), question);
  };
  // where the template writes as we do, long conversations need not go through it
  const like = [emptyThought, !emptyThought].find(
    (empty) =>
      template !== undefined &&
      agreesWith({ ...template, render: (talk, chat = {}) => throughTemplate(talk, chat) }, (talk, chat) =>
        renderGemma4(talk, chat, empty),
      ),
  );
  const ours = (messages: readonly ChatMessage[], chat: ChatOptions): boolean =>
    template === undefined || (like !== undefined && isProbed(messages, chat));
  const render = (messages: readonly ChatMessage[], chat: ChatOptions = {}): PromptPiece[] => {
    const clean = messages.map(withoutThoughts);
    return ours(clean, chat) ? renderGemma4(clean, chat, like ?? emptyThought) : throughTemplate(clean, chat);
  };
  const isOpen = (prompt: readonly number[] = []): boolean =>
    reasoning && prompt.findLast((token) => token === open || token === close || token === turn) === open;
  return {
    name: "gemma4",
    capabilities: {
      reasoning,
      tools: calls && (template?.reads("tools") ?? true),
      names: template?.names ?? false,
    },
    reads:
      template?.reads ??
      ((variable) => reasoning && ["enable_thinking", "preserve_thinking"].includes(variable)),
    // behind a call the model would go on with the tool's answer
    stopTokens: ["<turn|>", "<eos>", "<|tool_response>"].flatMap((mark) => id(mark) ?? []),
    callEnds: ["<tool_call|>"].flatMap((mark) => id(mark) ?? []),
    reasoningEnds: reasoning ? ["\n<channel|>"] : [],
    marks: MARKS,
    shape: (wish, chat = {}, prompt) => {
      const names = (chat.tools ?? []).map(({ name }) => name).filter((name) => name === (wish.tool ?? name));
      const thinks = chat.templateArguments?.enable_thinking === true;
      return gemma4Shape(wish, calls ? names : [], isOpen(prompt) ? "open" : thinks ? "may" : "never");
    },
    opening: (begin, chat = {}, prompt) => {
      const thinks = chat.templateArguments?.enable_thinking === true;
      const begun = isOpen(prompt) ? "\n<channel|>" : thinks ? "<|channel>thought\n<channel|>" : "";
      if (begin.kind === "content") return begun;
      return `${begun}<|tool_call>call:${begin.tool === undefined ? "" : `${begin.tool}{`}`;
    },
    render,
    // through a template the text of messages has been kept apart already
    ...promptWriter(tokenizer, render, (messages, chat) => (ours(messages, chat) ? MARKS : [])),
    parser: (chat = {}, prompt) =>
      gemma4Parser(tokenizer, {
        ...(calls && chat.tools ? { tools: chat.tools } : {}),
        thinking: isOpen(prompt),
        dropsThoughts: chat.templateArguments?.enable_thinking === false,
      }),
  };
}

/** Fills a gap of the reference template: behind an answer with calls, results and text it opens no turn. */
function withOpenTurn(pieces: readonly PromptPiece[], question: () => string): PromptPiece[] {
  const thought = "<|channel>thought\n";
  const text = textOf(pieces);
  const extra = text.endsWith(`<turn|>\n${thought}`) ? thought.length : 0;
  if (extra === 0 && !text.endsWith("<turn|>\n")) return [...pieces];
  const kept: PromptPiece[] = [];
  let left = text.length - extra;
  for (const piece of pieces) {
    if (left > 0) kept.push({ ...piece, text: piece.text.slice(0, left) });
    left -= piece.text.length;
  }
  // as it opens one behind a question
  const opening = question().split("<turn|>\n").at(-1) ?? "";
  return [...kept, marked(opening === "" ? "<|turn>model\n" : opening)];
}

/** Messages with the results that belong to them. */
type Turn = ChatMessage & { readonly results: readonly ChatMessage[] };

/**
 * The prompt up to where the answer begins. Leading system texts, in order, and the tools make the first turn; what the
 * model said, called and got back in a row is one turn.
 */
export function renderGemma4(
  messages: readonly ChatMessage[],
  { tools = [], templateArguments = {} }: ChatOptions,
  emptyThought: boolean,
): PromptPiece[] {
  const thinks = templateArguments.enable_thinking === true;
  const keepsThoughts = templateArguments.preserve_thinking === true;
  const first = messages.findIndex((message) => !isSystem(message));
  const lead = first < 0 ? messages : messages.slice(0, first);
  const text = lead
    .map(({ content }) => content.trim())
    .join("\n\n")
    .trim();
  const pieces = [marked("<bos>")];
  if (thinks || tools.length > 0 || lead.length > 0) {
    pieces.push(marked(`<|turn>system\n${thinks ? "<|think|>\n" : ""}`), plain(text));
    pieces.push(...tools.flatMap(declarationPieces), marked("<turn|>\n"));
  }
  const turns = withResults(messages.slice(lead.length));
  const lastUser = turns.findLastIndex(({ role }) => role === "user");
  turns.forEach((turn, i) => {
    const again = i > lastUser || (keepsThoughts && (turn.toolCalls?.length ?? 0) > 0);
    pieces.push(...turnPieces(turn, turns[i - 1], turns[i + 1], again));
  });
  return joinPieces([...pieces, ...generation(turns.at(-1), thinks, emptyThought)]);
}

function isSystem({ role }: ChatMessage): boolean {
  return role === "system" || role === "developer";
}

/** Tool messages go to the message before them; those that follow no answer stand in a turn of the model of their own. */
function withResults(messages: readonly ChatMessage[]): Turn[] {
  const turns: { message: ChatMessage; results: ChatMessage[] }[] = [];
  for (const message of messages) {
    if (message.role !== "tool") turns.push({ message, results: [] });
    else {
      if (turns.at(-1)?.message.role !== "assistant") {
        turns.push({ message: { role: "assistant", content: "" }, results: [] });
      }
      turns.at(-1)!.results.push(message);
    }
  }
  return turns.map(({ message, results }) => ({ ...message, results }));
}

function turnPieces(
  turn: Turn,
  before: Turn | undefined,
  after: Turn | undefined,
  showsThought: boolean,
): PromptPiece[] {
  const { role, reasoning, toolCalls = [], results } = turn;
  const content = turn.content.trim();
  if (role !== "assistant") {
    return [marked(`<|turn>${role === "user" ? "user" : "system"}\n`), plain(content), marked("<turn|>\n")];
  }
  const pieces = before?.role === "assistant" ? [] : [marked("<|turn>model\n")];
  if (reasoning && showsThought) {
    pieces.push(marked("<|channel>thought\n"), plain(reasoning), marked("\n<channel|>"));
  }
  pieces.push(
    ...toolCalls.flatMap(callPieces),
    ...results.flatMap((result) => resultPieces(result, toolCalls)),
  );
  pieces.push(plain(content));
  const waits = toolCalls.length > 0 && results.length === 0;
  if (waits) pieces.push(marked("<|tool_response>"));
  else if (after?.role !== "assistant" && !isOpenTurn(turn, after)) pieces.push(marked("<turn|>\n"));
  return pieces;
}

/** The model goes on behind the results of its calls. */
function isOpenTurn({ role, content, results, toolCalls = [] }: Turn, after: Turn | undefined): boolean {
  if (role !== "assistant" || after !== undefined) return false;
  return (results.length > 0 && content.trim() === "") || (toolCalls.length > 0 && results.length === 0);
}

function generation(last: Turn | undefined, thinks: boolean, emptyThought: boolean): PromptPiece[] {
  if (last === undefined || !isOpenTurn(last, undefined)) {
    return [marked(`<|turn>model\n${!thinks && emptyThought ? "<|channel>thought\n<channel|>" : ""}`)];
  }
  return thinks && last.results.length > 0 ? [marked("<|channel>thought\n")] : [];
}

function callPieces({ name, arguments: text }: ChatToolCall): PromptPiece[] {
  return [marked("<|tool_call>"), plain(`call:${name}`), ...argumentPieces(text), marked("<tool_call|>")];
}

function argumentPieces(text: string): PromptPiece[] {
  const value = parsed(text);
  if (isMapping(value)) return mappingPieces(value);
  // arguments that a model cut short; it sees what it wrote
  return [plain(value === null || text.trim() === "" ? "{}" : `{${text}}`)];
}

/** A result that is a JSON object is shown as one, any other as text. */
function resultPieces(result: ChatMessage, calls: readonly ChatToolCall[]): PromptPiece[] {
  const value = parsed(result.content);
  return [
    marked("<|tool_response>"),
    plain(`response:${toolName(result, calls)}`),
    ...(isMapping(value) ? mappingPieces(value) : [plain("{value:"), ...quoted(result.content), plain("}")]),
    marked("<tool_response|>"),
  ];
}

function toolName({ name, toolCallId }: ChatMessage, calls: readonly ChatToolCall[]): string {
  const called = calls.find(({ id }) => id !== undefined && id === toolCallId);
  return called?.name ?? name ?? "unknown";
}

/** The message as templates take it that have a place for results in it. */
function folded({ results, ...message }: Turn): ChatMessage {
  if (results.length === 0) return message;
  const toolResponses = results.map((result) => {
    const value = parsed(result.content);
    const name = toolName(result, message.toolCalls ?? []);
    return { name, response: isMapping(value) ? value : result.content };
  });
  return { ...message, toolResponses };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    // text that is no JSON is shown as text
    return undefined;
  }
}

/** An answer of the history without the thoughts that a client left in it. */
function withoutThoughts(message: ChatMessage): ChatMessage {
  if (message.role !== "assistant" || !message.content.includes("channel")) return message;
  const parts = message.content.split("<channel|>").map((part) => part.split("<|channel>", 1)[0]!);
  return { ...message, content: parts.join("").trim() };
}
