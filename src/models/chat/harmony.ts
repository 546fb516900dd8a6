/**
 * The Harmony format of GPT-OSS:
 *   message := <|start|> role [to=recipient] [<|channel|> channel [to=recipient]] [content type] <|message|> text end
 *   end     := <|end|> | <|return|> (last of an answer) | <|call|> (a tool is called)
 */
import type { Tokenizer } from "../tokenizer/index.ts";
import { HarmonyParser } from "./harmony_parser.ts";
import { Markup } from "./markup.ts";
import type { ChatFormat, ChatMessage, PromptOptions } from "./types.ts";

export function harmonyFormat(tokenizer: Tokenizer): ChatFormat {
  const markup = new Markup(tokenizer);
  const stops = ["<|return|>", "<|call|>"].map((text) => tokenizer.idOf(text));
  return {
    name: "harmony",
    capabilities: { reasoning: true },
    stopTokens: stops.filter((id) => id !== undefined),
    prompt: (messages, options) =>
      markup.encode(renderHarmony(messages, options, (text) => markup.plain(text))),
    parser: () => new HarmonyParser(tokenizer),
  };
}

/**
 * The prompt as text, ending in the header of the assistant's next message. Every system and developer message is part
 * of the one developer message; the system message itself is written by the server.
 */
export function renderHarmony(
  messages: readonly ChatMessage[],
  options: PromptOptions,
  plain: (text: string) => string,
): string {
  const instructions = messages
    .filter((m) => m.role === "system" || m.role === "developer")
    .map((m) => m.content);
  let out = message("system", systemText(options));
  if (instructions.length > 0) {
    out += message("developer", `# Instructions\n\n${plain(instructions.join("\n\n"))}`);
  }
  const lastFinal = messages.findLastIndex((m) => m.role === "assistant" && !m.toolCalls?.length);
  for (const [i, m] of messages.entries()) {
    if (m.role === "user") out += message("user", plain(m.content));
    else if (m.role === "tool") out += toolResult(m, plain);
    else if (m.role === "assistant") out += assistantTurn(m, i > lastFinal, plain);
  }
  return `${out}<|start|>assistant`;
}

function systemText(options: PromptOptions): string {
  return [
    "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06",
    `Reasoning: ${options.reasoningEffort ?? "low"}`,
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.",
  ].join("\n\n");
}

function message(header: string, content: string, end = "<|end|>"): string {
  return `<|start|>${header}<|message|>${content}${end}`;
}

/** Reasoning is kept only inside a tool loop that no final answer has ended yet. */
function assistantTurn(m: ChatMessage, unfinished: boolean, plain: (text: string) => string): string {
  let out = "";
  if (m.reasoning && unfinished) out += message("assistant<|channel|>analysis", plain(m.reasoning));
  if (!m.toolCalls?.length) return out + message("assistant<|channel|>final", plain(m.content));
  if (m.content) out += message("assistant<|channel|>commentary", plain(m.content));
  for (const call of m.toolCalls) {
    const header = `assistant<|channel|>commentary to=functions.${functionName(call.name)} <|constrain|>json`;
    out += message(header, plain(call.arguments), "<|call|>");
  }
  return out;
}

function toolResult(m: ChatMessage, plain: (text: string) => string): string {
  const header = `functions.${functionName(m.name ?? "unknown")} to=assistant<|channel|>commentary`;
  return message(header, plain(m.content));
}

/** A TypeScript identifier: space, `-` and `.` become `_`, other characters are dropped. */
export function functionName(name: string): string {
  const kept = name.replace(/[ .-]/g, "_").replace(/[^A-Za-z0-9_$]/g, "");
  return /^[0-9]/.test(kept) || kept === "" ? `_${kept}` : kept;
}
