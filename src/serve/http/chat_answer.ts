import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts";
import type { TokenRecord } from "../choice.ts";
import type { AnswerFrame } from "./answer_frame.ts";
import { type ChatLogprob, chatLogprob } from "./logprobs.ts";
import type { ManyEvent } from "./many.ts";
import type { AnswerShape } from "./respond.ts";
import { sseEvent } from "./sse.ts";
import { usageOf } from "./usage.ts";

export type ChatAnswerOptions = AnswerFrame & {
  /** As the request spelled it. */
  readonly model: string;
  readonly choices: number;
  readonly tokenizer: Tokenizer;
  readonly logprobs: boolean;
  readonly includeUsage: boolean;
  /** Reasoning is shown unless the request suppressed it. */
  readonly showReasoning: boolean;
  /** Name of the reasoning parser when the request asked for the `psionic_reasoning` object. */
  readonly reasoningParser?: string;
};

type ToolCall = { id: string; type: "function"; function: { name: string; arguments: string } };
type Part = { readonly kind: "reasoning" | "final"; text: string };

type Collected = {
  readonly parts: Part[];
  readonly toolCalls: ToolCall[];
  readonly logprobs: ChatLogprob[];
  finish: string | null;
  cause: string;
};

/** Answers of /v1/chat/completions. */
export function chatAnswer(options: ChatAnswerOptions): AnswerShape {
  const created = Math.floor(Date.now() / 1000);
  const { id, model, fingerprint, tokenizer } = options;
  const head = { id, created, model, system_fingerprint: fingerprint };
  const collected = Array.from({ length: options.choices }, emptyChoice);
  const started = new Set<string>();
  const usageField = options.includeUsage ? { usage: null } : {};
  const logprobsOf = (records: readonly TokenRecord[] | undefined) =>
    options.logprobs ? { logprobs: { content: toEntries(tokenizer, records), refusal: null } } : {};
  const chunk = (index: number, delta: object, finish: string | null, extra: object = {}): string =>
    sseEvent({
      ...head,
      object: "chat.completion.chunk",
      choices: [{ index, delta, ...extra, finish_reason: finish }],
      ...usageField,
    });
  const toolDelta = (choice: number, index: number, name: string | undefined, args: string): object => {
    const call = `${choice} ${index}`;
    if (started.has(call)) return { index, function: { arguments: args } };
    started.add(call);
    return {
      index,
      id: callId(id, choice, index),
      type: "function",
      function: { name: name ?? "", arguments: args },
    };
  };

  return {
    opening: () =>
      collected.map((_, index) => chunk(index, { role: "assistant", content: "" }, null)).join(""),
    chunk: ({ event }) => {
      switch (event.type) {
        case "content":
          return chunk(event.choice, { content: event.text }, null, logprobsOf(event.records));
        case "reasoning":
          return options.showReasoning ? chunk(event.choice, { reasoning_content: event.text }, null) : "";
        case "toolCall": {
          const delta = toolDelta(event.choice, event.index, event.name, event.arguments);
          return chunk(event.choice, { tool_calls: [delta] }, null);
        }
        case "finish":
          return chunk(event.choice, {}, event.reason);
        default:
          return "";
      }
    },
    closing: (summary) =>
      options.includeUsage
        ? sseEvent({ ...head, object: "chat.completion.chunk", choices: [], usage: usageOf(summary) })
        : "",
    collect: (item) => collect(collected, item, options),
    body: (summary) => ({
      ...head,
      object: "chat.completion",
      choices: collected.map((choice, index) => wholeChoice(choice, index, options)),
      usage: usageOf(summary),
      ...(options.reasoningParser && collected.length === 1
        ? {
            psionic_reasoning: reasoningObject(collected[0]!, options.reasoningParser, options.showReasoning),
          }
        : {}),
      ...options.debug?.(
        summary,
        collected.map(({ cause }) => cause),
      ),
    }),
  };
}

function emptyChoice(): Collected {
  return { parts: [], toolCalls: [], logprobs: [], finish: null, cause: "error" };
}

function callId(answerId: string, choice: number, index: number): string {
  return choice === 0 ? `${answerId}-tool-${index}` : `${answerId}-${choice}-tool-${index}`;
}

function toEntries(tokenizer: Tokenizer, records: readonly TokenRecord[] = []): ChatLogprob[] {
  return records.map((record) => chatLogprob(tokenizer, record));
}

function collect(choices: readonly Collected[], { event }: ManyEvent, options: ChatAnswerOptions): void {
  if (!("choice" in event)) return;
  const into = choices[event.choice];
  if (into === undefined) return;
  switch (event.type) {
    case "content":
      addText(into.parts, "final", event.text);
      if (options.logprobs) into.logprobs.push(...toEntries(options.tokenizer, event.records));
      break;
    case "reasoning":
      addText(into.parts, "reasoning", event.text);
      break;
    case "toolCall": {
      into.toolCalls[event.index] ??= {
        id: callId(options.id, event.choice, event.index),
        type: "function",
        function: { name: event.name ?? "", arguments: "" },
      };
      into.toolCalls[event.index]!.function.arguments += event.arguments;
      break;
    }
    case "finish":
      into.finish = event.reason;
      into.cause = event.cause;
      break;
  }
}

function addText(parts: Part[], kind: Part["kind"], text: string): void {
  const last = parts.at(-1);
  if (last?.kind === kind) last.text += text;
  else parts.push({ kind, text });
}

function textOf(choice: Collected, kind: Part["kind"]): string {
  return choice.parts
    .filter((part) => part.kind === kind)
    .map(({ text }) => text)
    .join("");
}

function wholeChoice(choice: Collected, index: number, options: ChatAnswerOptions): object {
  const content = textOf(choice, "final");
  const reasoning = textOf(choice, "reasoning");
  const calls = choice.toolCalls;
  return {
    index,
    message: {
      role: "assistant",
      content: content === "" && calls.length > 0 ? null : content,
      refusal: null,
      ...(options.showReasoning && reasoning !== "" ? { reasoning_content: reasoning } : {}),
      ...(calls.length > 0 ? { tool_calls: calls } : {}),
    },
    logprobs: options.logprobs ? { content: choice.logprobs, refusal: null } : null,
    finish_reason: choice.finish,
  };
}

function reasoningObject(choice: Collected, parser: string, showReasoning: boolean): object {
  const final = textOf(choice, "final");
  const reasoning = textOf(choice, "reasoning");
  const parts = choice.parts
    .filter(({ kind }) => showReasoning || kind !== "reasoning")
    .map(({ kind, text }) => ({ kind, role: "assistant", content: text }));
  return {
    parser,
    source: "tokens",
    ...(final === "" ? {} : { final_content: final }),
    ...(showReasoning && reasoning !== "" ? { reasoning_content: reasoning } : {}),
    ...(parts.length > 0 ? { parts } : {}),
  };
}
