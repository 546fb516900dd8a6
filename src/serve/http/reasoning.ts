import type { AnswerStart, ChatFormat, ChatOptions, GenerationParser } from "../../models/chat/index.ts";
import type { ServedModel } from "./options.ts";
import { oneOf } from "./schema.ts";

/** Efforts as clients name them. */
export const efforts = oneOf("none", "minimal", "low", "medium", "high", "xhigh", "max");
export type Effort = (typeof efforts.options)[number];

/** The nearest of the three levels that models were trained with; `none` turns reasoning off. */
export function effortLevel(effort: Effort): "low" | "medium" | "high" | "none" {
  if (effort === "minimal") return "low";
  return effort === "xhigh" || effort === "max" ? "high" : effort;
}

/** Whether a format has a way to answer without reasoning; one that never reasons does so anyway. */
export function canSkipReasoning(chat: ChatFormat, hasTools: boolean): boolean {
  if (!chat.capabilities.reasoning || chat.reads("enable_thinking")) return true;
  // An answer that is made to begin with its text could call no tool.
  return chat.opening !== undefined && !hasTools;
}

/** Chat options and the start of an answer that must not reason. */
export function withoutReasoning(
  chat: ChatFormat,
  options: ChatOptions,
): { readonly options: ChatOptions; readonly start?: AnswerStart } {
  if (chat.reads("enable_thinking")) {
    return {
      options: { ...options, templateArguments: { ...options.templateArguments, enable_thinking: false } },
    };
  }
  return chat.capabilities.reasoning && chat.opening ? { options, start: { kind: "content" } } : { options };
}

export type StartedAnswer = {
  /** What the prompt ends with. */
  readonly tokens: readonly number[];
  /** A parser that has read them. */
  readonly parser: (parser: GenerationParser) => GenerationParser;
};

/** An answer whose beginning the server writes: its tokens become part of the prompt, its events part of the answer. */
export function startAnswer(
  { chat, tokenizer }: ServedModel,
  start: AnswerStart | undefined,
  options: ChatOptions,
): StartedAnswer {
  const written = start === undefined ? undefined : chat.opening?.(start, options);
  if (written === undefined) return { tokens: [], parser: (parser) => parser };
  const tokens = tokenizer.encode(written, { special: true, bos: false, eos: false });
  return { tokens, parser: (parser) => begun(parser, tokens) };
}

function begun(parser: GenerationParser, tokens: readonly number[]): GenerationParser {
  let held = tokens.flatMap((token) => [...parser.push(token)]);
  const after = <T>(events: readonly T[]): readonly T[] => {
    if (held.length === 0) return events;
    const all = [...held, ...events] as readonly T[];
    held = [];
    return all;
  };
  return {
    push: (token) => after(parser.push(token)),
    finish: (stopToken) => after(parser.finish(stopToken)),
    get inContent() {
      return parser.inContent;
    },
    get unparsed() {
      return parser.unparsed;
    },
  };
}
