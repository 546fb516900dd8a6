import { unexpected } from "../../core/error.ts";
import { harmonyParser } from "./harmony_parser.ts";
import { isBuiltIn, type ToolNames, toolNames, toolSection } from "./harmony_tools.ts";
import { joinPieces, marked, plain, promptWriter } from "./pieces.ts";
import { harmonyShape } from "./shapes.ts";
import type { ChatFormat, ChatMessage, ChatOptions, ChatTokenizer, PromptPiece } from "./types.ts";

const IDENTITY = "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06";
const CHANNELS = "# Valid channels: analysis, commentary, final. Channel must be included for every message.";
const TOOLS_CHANNEL = "Calls to these tools must go to the commentary channel: 'functions'.";

/** Control tokens of the format, which a file may have failed to mark as such. */
const MARKS: readonly string[] = [
  "<|start|>",
  "<|message|>",
  "<|channel|>",
  "<|constrain|>",
  "<|end|>",
  "<|return|>",
  "<|call|>",
  "<|startoftext|>",
  "<|endoftext|>",
];

/** The format of GPT-OSS. */
export function harmonyFormat(tokenizer: ChatTokenizer): ChatFormat {
  return {
    name: "harmony",
    capabilities: { reasoning: true, tools: true, names: false },
    reads: (variable) => variable === "reasoning_effort",
    stopTokens: ["<|return|>", "<|call|>"].flatMap((text) => tokenizer.idOf(text) ?? []),
    render: renderHarmony,
    ...promptWriter(tokenizer, renderHarmony, () => MARKS),
    opening: (start, options = {}) => {
      if (start.kind === "content") return "<|channel|>final<|message|>";
      // the model goes on with a name of its choice
      if (start.tool === undefined) return "<|channel|>commentary to=functions.";
      const to = recipient(toolNames(options.tools).written(start.tool));
      return `<|channel|>commentary to=${to} <|constrain|>json<|message|>`;
    },
    shape: (wish, options = {}) => {
      const names = toolNames(options.tools);
      const offered = (options.tools ?? []).filter(({ name }) => name === (wish.tool ?? name));
      return harmonyShape(
        wish,
        offered.map(({ name }) => ({ tool: name, written: recipient(names.written(name)) })),
      );
    },
    reasoningEnds: ["<|end|><|start|>assistant", "<|end|><|start|>assistant<|channel|>final<|message|>"],
    parser: (options = {}) => harmonyParser(tokenizer, toolNames(options.tools)),
  };
}

/**
 * The prompt up to `<|start|>assistant`. The system message is ours; all system and developer texts of the request
 * together, in order, become the one developer message.
 */
export function renderHarmony(messages: readonly ChatMessage[], options: ChatOptions = {}): PromptPiece[] {
  const names = toolNames(options.tools);
  const callNames = new Map<string, string>();
  const lastFinal = messages.findLastIndex(isFinalAnswer);
  const pieces = [...systemMessage(options), ...developerMessage(messages, options, names)];
  messages.forEach((message, i) => {
    switch (message.role) {
      case "user":
        pieces.push(marked("<|start|>user<|message|>"), plain(message.content), marked("<|end|>"));
        break;
      case "assistant":
        for (const call of message.toolCalls ?? []) if (call.id) callNames.set(call.id, call.name);
        // Reasoning that led to an answer is of no more use; inside a tool loop the model goes on from it.
        pieces.push(...assistantMessages(message, i > lastFinal, names));
        break;
      case "tool":
        pieces.push(...toolMessage(message, i, callNames, names));
        break;
    }
  });
  pieces.push(marked("<|start|>assistant"));
  return joinPieces(pieces);
}

function isFinalAnswer({ role, content, toolCalls = [] }: ChatMessage): boolean {
  return role === "assistant" && toolCalls.length === 0 && content !== "";
}

function systemMessage({ currentDate, reasoningEffort = "medium", tools = [] }: ChatOptions): PromptPiece[] {
  const identity = currentDate === undefined ? IDENTITY : `${IDENTITY}\nCurrent date: ${currentDate}`;
  const channels = tools.length > 0 ? `${CHANNELS}\n${TOOLS_CHANNEL}` : CHANNELS;
  const text = `${identity}\n\nReasoning: ${reasoningEffort}\n\n${channels}`;
  return [marked("<|start|>system<|message|>"), plain(text), marked("<|end|>")];
}

function developerMessage(
  messages: readonly ChatMessage[],
  { tools = [] }: ChatOptions,
  names: ToolNames,
): PromptPiece[] {
  const instructions = messages
    .filter(({ role, content }) => (role === "system" || role === "developer") && content !== "")
    .map(({ content }) => content)
    .join("\n\n");
  const sections = [
    ...(instructions === "" ? [] : [`# Instructions\n\n${instructions}`]),
    ...(tools.length === 0 ? [] : [toolSection(tools, names)]),
  ];
  if (sections.length === 0) return [];
  return [marked("<|start|>developer<|message|>"), plain(sections.join("\n\n")), marked("<|end|>")];
}

function assistantMessages(message: ChatMessage, keepReasoning: boolean, names: ToolNames): PromptPiece[] {
  const { content, reasoning, toolCalls = [] } = message;
  const pieces: PromptPiece[] = [];
  const say = (channel: string, text: string): void => {
    pieces.push(marked(`<|start|>assistant<|channel|>${channel}<|message|>`), plain(text), marked("<|end|>"));
  };
  if (reasoning && keepReasoning) say("analysis", reasoning);
  // Text next to calls introduces them; an answer stands alone.
  if (content !== "") say(toolCalls.length > 0 ? "commentary" : "final", content);
  for (const call of toolCalls) {
    pieces.push(
      marked("<|start|>assistant<|channel|>commentary to="),
      plain(recipient(names.written(call.name))),
      marked(" <|constrain|>json<|message|>"),
      plain(call.arguments),
      marked("<|call|>"),
    );
  }
  return pieces;
}

function toolMessage(
  message: ChatMessage,
  index: number,
  callNames: ReadonlyMap<string, string>,
  names: ToolNames,
): PromptPiece[] {
  const { toolCallId, content } = message;
  const name = message.name ?? (toolCallId === undefined ? undefined : callNames.get(toolCallId));
  if (!name) {
    const details = { param: `messages[${index}].name` };
    const fix = "Send the tool's name, or the tool_call_id of a call in an earlier assistant message";
    throw unexpected("invalid_request", `messages[${index}]`, "a tool message with a name", "none", {
      fix,
      details,
    });
  }
  return [
    marked("<|start|>"),
    plain(recipient(names.written(name))),
    marked(" to=assistant<|channel|>commentary<|message|>"),
    plain(content),
    marked("<|end|>"),
  ];
}

function recipient(written: string): string {
  return isBuiltIn(written) ? written : `functions.${written}`;
}
