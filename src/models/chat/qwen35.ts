import { unexpected } from "../../core/error.ts";
import { agreesWith, isProbed } from "./agreement.ts";
import { joinPieces, marked, plain, promptWriter } from "./pieces.ts";
import { qwen35Parser } from "./qwen35_parser.ts";
import { qwen35Call, thinkShape } from "./shapes.ts";
import { spacedJson } from "./spaced_json.ts";
import { chatTemplate } from "./template.ts";
import type {
  ChatFormat,
  ChatMessage,
  ChatOptions,
  ChatTokenizer,
  ChatTool,
  ContentPart,
  PromptPiece,
} from "./types.ts";

/** Marks of the format, which a file may have failed to call control tokens; most are none. */
const MARKS: readonly string[] = [
  ...["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"],
  ...["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"],
  ...["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
];

const TOOLS_HEAD = "# Tools\n\nYou have access to the following functions:\n\n<tools>";

/** Word for word what the model was trained with. */
const TOOLS_RULES = `
</tools>

If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT after
- If there is no function call available, answer the question like normal with your current knowledge and do not tell the user about function calls
</IMPORTANT>`;

export type Qwen35Options = {
  /** The model file's template; without it the built-in renderer writes. */
  readonly template?: string;
  /** Whether the model thinks when a request does not say; for the built-in renderer. */
  readonly thinks: boolean;
};

/** The format of Qwen 3.5 and 3.6. */
export function qwen35Format(tokenizer: ChatTokenizer, options: Qwen35Options): ChatFormat {
  const template =
    options.template === undefined ? undefined : chatTemplate(options.template, tokenizer, MARKS);
  const id = (mark: string): number | undefined => tokenizer.idOf(mark);
  const [think, thinkEnd, start] = [id("<think>"), id("</think>"), id("<|im_start|>")];
  const reasoning = thinkEnd !== undefined;
  const calls = id("<tool_call>") !== undefined && id("</tool_call>") !== undefined;
  const thinks = (
    { templateArguments: { enable_thinking: asked } = {} }: ChatOptions,
    fallback = options.thinks,
  ): boolean => reasoning && (typeof asked === "boolean" ? asked : fallback);
  /** Whether the prompt leaves a think block open. */
  const isOpen = (prompt: readonly number[] | undefined, chat: ChatOptions): boolean => {
    if (prompt === undefined) return template === undefined ? thinks(chat) : template.opensThought(chat);
    const last = prompt.findLast((token) => token === think || token === thinkEnd || token === start);
    return reasoning && last === think;
  };
  // where the template writes as we do, long conversations need not go through it
  const like = [options.thinks, !options.thinks].find(
    (fallback) =>
      template !== undefined &&
      agreesWith(template, (talk, chat) => renderQwen35(talk, chat, thinks(chat, fallback))),
  );
  const ours = (messages: readonly ChatMessage[], chat: ChatOptions): boolean =>
    template === undefined || (like !== undefined && isProbed(messages, chat));
  const render = (messages: readonly ChatMessage[], chat: ChatOptions = {}): PromptPiece[] => {
    const split = messages.map(splitReasoning);
    if (template !== undefined && !ours(split, chat)) return template.render(split, chat);
    return renderQwen35(split, chat, thinks(chat, like));
  };
  return {
    name: "qwen35",
    capabilities: {
      reasoning,
      tools: calls && (template?.reads("tools") ?? true),
      names: template?.names ?? false,
    },
    reads: template?.reads ?? ((variable) => reasoning && variable === "enable_thinking"),
    stopTokens: ["<|im_end|>", "<|endoftext|>"].flatMap((mark) => id(mark) ?? []),
    callEnds: ["</tool_call>"].flatMap((mark) => id(mark) ?? []),
    reasoningEnds: reasoning ? ["\n</think>\n\n"] : [],
    marks: MARKS,
    shape: (wish, chat = {}, prompt) => {
      const names = (chat.tools ?? []).map(({ name }) => name).filter((name) => name === (wish.tool ?? name));
      const call = calls && names.length > 0 ? qwen35Call(names) : undefined;
      return thinkShape(wish, call, isOpen(prompt, chat) ? "open" : "never");
    },
    opening: (begin, chat = {}, prompt) => {
      const end = isOpen(prompt, chat) ? "\n</think>\n\n" : "";
      if (begin.kind === "content") return end;
      const named = begin.tool === undefined ? "" : `${begin.tool}>\n`;
      return `${end}<tool_call>\n<function=${named}`;
    },
    render,
    // through a template the text of messages has been kept apart already
    ...promptWriter(tokenizer, render, (messages, chat) => (ours(messages, chat) ? MARKS : [])),
    parser: (chat = {}, prompt) =>
      qwen35Parser(tokenizer, {
        ...(calls && chat.tools ? { tools: chat.tools } : {}),
        thinking: isOpen(prompt, chat),
      }),
  };
}

/**
 * The prompt up to where the answer begins, `thinks` leaving its think block open. All system and developer texts,
 * in order, lead; reasoning is told again only behind the last question of the user.
 */
export function renderQwen35(
  messages: readonly ChatMessage[],
  { tools = [] }: ChatOptions,
  thinks: boolean,
): PromptPiece[] {
  const isSystem = ({ role }: ChatMessage): boolean => role === "system" || role === "developer";
  const turns = messages.filter((message) => !isSystem(message));
  const lastQuestion = turns.findLastIndex(isQuestion);
  if (lastQuestion < 0) {
    const expected = "a user message that asks something (No user query found in messages.)";
    throw unexpected("invalid_request", "messages", expected, "none", { details: { param: "messages" } });
  }
  const texts = messages.filter((message) => isSystem(message) && message.content.trim() !== "");
  const pieces = systemTurn(texts.map(({ content }) => content.trim()).join("\n\n"), tools);
  turns.forEach((message, i) => {
    const text = plain(message.content.trim());
    if (message.role === "user") {
      const said = message.parts === undefined ? [text] : mediaPieces(message.parts);
      pieces.push(marked("<|im_start|>user\n"), ...said, marked("<|im_end|>\n"));
    } else if (message.role === "assistant") pieces.push(...assistantTurn(message, i > lastQuestion));
    else {
      // the results of one answer's calls share a turn
      if (turns[i - 1]?.role !== "tool") pieces.push(marked("<|im_start|>user"));
      pieces.push(marked("\n<tool_response>\n"), text, marked("\n</tool_response>"));
      if (turns[i + 1]?.role !== "tool") pieces.push(marked("<|im_end|>\n"));
    }
  });
  pieces.push(marked(`<|im_start|>assistant\n<think>\n${thinks ? "" : "\n</think>\n\n"}`));
  return joinPieces(pieces);
}

/** Text with the marks of images and videos, trimmed like any text. */
function mediaPieces(parts: readonly ContentPart[]): PromptPiece[] {
  return parts.map((part, i) => {
    if (part.type !== "text") return marked(`<|vision_start|><|${part.type}_pad|><|vision_end|>`);
    const first = i === 0 ? part.text.trimStart() : part.text;
    return plain(i === parts.length - 1 ? first.trimEnd() : first);
  });
}

/** Reasoning that a client sent as part of the text. */
function splitReasoning(message: ChatMessage): ChatMessage {
  const { role, content, reasoning } = message;
  const end = content.lastIndexOf("</think>");
  if (role !== "assistant" || reasoning !== undefined || end < 0) return message;
  const before = content.slice(0, content.indexOf("</think>"));
  const begin = before.lastIndexOf("<think>");
  const thought = begin < 0 ? before : before.slice(begin + "<think>".length);
  return { ...message, reasoning: thought.trim(), content: content.slice(end + "</think>".length).trim() };
}

function isQuestion({ role, content }: ChatMessage): boolean {
  const text = content.trim();
  const wrapped = text.startsWith("<tool_response>") && text.endsWith("</tool_response>");
  return role === "user" && !wrapped;
}

function systemTurn(text: string, tools: readonly ChatTool[]): PromptPiece[] {
  if (tools.length === 0) {
    if (text === "") return [];
    return [marked("<|im_start|>system\n"), plain(text), marked("<|im_end|>\n")];
  }
  const declared = tools.map((tool) => `\n${spacedJson({ type: "function", function: tool })}`).join("");
  return [
    marked(`<|im_start|>system\n${TOOLS_HEAD}`),
    plain(declared),
    marked(TOOLS_RULES),
    plain(text === "" ? "" : `\n\n${text}`),
    marked("<|im_end|>\n"),
  ];
}

function assistantTurn(message: ChatMessage, keepReasoning: boolean): PromptPiece[] {
  const { reasoning = "", toolCalls = [] } = message;
  const content = message.content.trim();
  const pieces = [marked("<|im_start|>assistant\n")];
  if (keepReasoning) pieces.push(marked("<think>\n"), plain(reasoning.trim()), marked("\n</think>\n\n"));
  pieces.push(plain(content));
  toolCalls.forEach((call, i) => {
    const gap = i > 0 ? "\n" : content === "" ? "" : "\n\n";
    pieces.push(marked(`${gap}<tool_call>\n<function=`), plain(call.name), marked(">\n"));
    for (const [key, value] of argumentsOf(call.arguments)) {
      pieces.push(marked("<parameter="), plain(key), marked(">\n"));
      pieces.push(plain(valueText(value)), marked("\n</parameter>\n"));
    }
    pieces.push(marked("</function>\n</tool_call>"));
  });
  return [...pieces, marked("<|im_end|>\n")];
}

/** What is no object has no parameters to name. */
function argumentsOf(text: string): readonly (readonly [string, unknown])[] {
  let value: unknown;
  try {
    value = JSON.parse(text) as unknown;
  } catch {
    // arguments that a model cut short; it sees what it wrote
    return text.trim() === "" ? [] : [["arguments", text]];
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return value === null ? [] : [["arguments", value]];
  }
  return Object.entries(value);
}

/** As Python writes it, which is what the reference template does. */
function valueText(value: unknown): string {
  if (typeof value === "string") return value;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  return spacedJson(value);
}
