import * as v from "valibot";
import type {
  AnswerStart,
  ChatFormat,
  ChatOptions,
  GenerationParser,
  ParsedEvent,
} from "../../models/chat/index.ts";
import type { ReasoningBudget } from "../reasoning_budget.ts";
import type { ServedModel } from "./options.ts";
import { integer, maybe, oneOf } from "./schema.ts";

/** Efforts as clients name them. */
export const efforts = oneOf("none", "minimal", "low", "medium", "high", "xhigh", "max");
export type Effort = (typeof efforts.options)[number];

/** Fields that bound reasoning, under llama.cpp's name and the one of clients that know Anthropic's. */
export const budgetEntries = {
  thinking_budget_tokens: maybe(integer(-1, 2 ** 31 - 1)),
  thinking: maybe(
    v.object(
      {
        type: oneOf("enabled", "disabled", "adaptive", "auto"),
        budget_tokens: maybe(integer(-1, 2 ** 31 - 1)),
      },
      "an object with a type",
    ),
  ),
};

type BudgetFields = v.InferOutput<v.ObjectSchema<typeof budgetEntries, undefined>>;

/** The budget a request asks for; -1 asks for none. Thinking that is asked for without a bound has an infinite one. */
export function budgetOf(
  body: BudgetFields,
): { readonly field: string; readonly tokens: number } | undefined {
  const { thinking, thinking_budget_tokens: most } = body;
  if (thinking?.type === "disabled") return { field: "thinking", tokens: 0 };
  const own = thinking?.budget_tokens ?? undefined;
  const field = own === undefined ? "thinking_budget_tokens" : "thinking.budget_tokens";
  const tokens = own ?? most ?? -1;
  if (tokens >= 0) return { field, tokens };
  const asks = thinking?.type === "enabled" || thinking?.type === "adaptive";
  return asks ? { field: "thinking", tokens: Number.POSITIVE_INFINITY } : undefined;
}

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
  if (chat.reads("enable_thinking")) return { options: withThinking(options, false) };
  return chat.capabilities.reasoning && chat.opening ? { options, start: { kind: "content" } } : { options };
}

/** The same options with thinking turned on or off, for formats that read it. */
export function withThinking(options: ChatOptions, on: boolean): ChatOptions {
  return { ...options, templateArguments: { ...options.templateArguments, enable_thinking: on } };
}

/** The tokens that end reasoning at its budget; undefined where the format has no such text. */
export function reasoningBudget(
  { chat, tokenizer }: ServedModel,
  tokens: number,
  hasTools: boolean,
): ReasoningBudget | undefined {
  const ends = chat.reasoningEnds ?? [];
  // without tools nothing but text can follow
  const texts = hasTools ? ends : ends.slice(-1);
  if (texts.length === 0) return undefined;
  return {
    tokens,
    closings: texts.map((text) => tokenizer.encode(text, { special: true, bos: false, eos: false })),
  };
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
  prompt: readonly number[],
): StartedAnswer {
  const written = start === undefined ? undefined : chat.opening?.(start, options, prompt);
  if (written === undefined) return { tokens: [], parser: (parser) => parser };
  const tokens = tokenizer.encode(written, { special: true, bos: false, eos: false });
  return { tokens, parser: (parser) => begun(parser, tokens) };
}

function begun(parser: GenerationParser, tokens: readonly number[]): GenerationParser {
  let held = tokens.flatMap((token) => [...parser.push(token)]);
  const after = (events: readonly ParsedEvent[]): readonly ParsedEvent[] => {
    if (held.length === 0) return events;
    const all = [...held, ...events];
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
    get region() {
      return parser.region;
    },
  };
}
