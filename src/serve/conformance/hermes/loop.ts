import { at, isObject, type Json, listAt, textAt } from "../json.ts";
import { readChatStream } from "../shapes.ts";
import { sseEvents } from "../sse.ts";
import { ok, type Target } from "../target.ts";
import { type LoopTool, runTool } from "./tools.ts";

/** What a turn offers: the tools, and whether they must be called. */
export type Offer = {
  readonly tools: readonly LoopTool[];
  readonly choice?: "auto" | "none" | "required";
  readonly parallel?: boolean;
};

export type LoopCall = { readonly id: string; readonly name: string; readonly arguments: string };

/** A request of the loop in short. */
export type RequestSummary = {
  readonly stream: boolean;
  readonly tool_choice: string | null;
  readonly parallel_tool_calls: boolean | null;
  readonly tools: readonly string[];
  readonly message_count: number;
  readonly tool_calls: readonly string[];
  readonly finish_reason: string | null;
  readonly duration_s: number;
  /** From sending to the first text or call; null where nothing was streamed. */
  readonly first_delta_s: number | null;
  readonly usage: Json | null;
};

export type LoopOutcome = {
  readonly messages: readonly Json[];
  /** The calls of each turn that had some. */
  readonly toolTurns: readonly (readonly LoopCall[])[];
  readonly toolResults: readonly string[];
  readonly requests: readonly RequestSummary[];
  /** A text came that ends the conversation. */
  readonly completed: boolean;
  /** Why it broke off; null where it did not. */
  readonly failed: string | null;
  readonly finalResponse: string;
  readonly wallclockS: number;
};

export type LoopOptions = {
  readonly messages: readonly Json[];
  /** `results`: what tools have returned so far, by the name of the tool. */
  readonly offer: (results: ReadonlyMap<string, string>) => Offer;
  readonly stream?: boolean;
  /** Longest time for a request without tools, milliseconds. */
  readonly summaryMs?: number;
};

/** Requests that a conversation may take. */
export const maxRequests = 6;
/** Tokens of one answer, reasoning included. */
export const maxTokens = 1024;

type Answer = {
  readonly message: Json;
  readonly calls: readonly LoopCall[];
  readonly finish: string | null;
  readonly usage: Json | null;
  readonly firstDeltaMs: number | null;
};

/** A tool-using agent's conversation: asks, runs the tools that are called, goes on until a text ends it. */
export async function runLoop(target: Target, options: LoopOptions): Promise<LoopOutcome> {
  const begun = performance.now();
  const messages: Json[] = [...options.messages];
  const results = new Map<string, string>();
  const toolTurns: (readonly LoopCall[])[] = [];
  const toolResults: string[] = [];
  const requests: RequestSummary[] = [];
  let failed: string | null = null;
  let final: string | undefined;
  try {
    while (final === undefined && requests.length < maxRequests) {
      const offer = options.offer(results);
      const stream = options.stream ?? false;
      const start = performance.now();
      const answer = await ask(target, requestOf(target, messages, offer, stream), stream, offer, options);
      requests.push(summaryOf(offer, stream, messages.length, answer, performance.now() - start));
      messages.push(answer.message);
      if (answer.calls.length === 0) final = textAt(answer.message, "content");
      else toolTurns.push(answer.calls);
      for (const call of answer.calls) {
        const result = runTool(offer.tools, call.name, call.arguments);
        results.set(call.name, result);
        toolResults.push(result);
        messages.push({ role: "tool", tool_call_id: call.id, name: call.name, content: result });
      }
    }
    if (final === undefined) failed = `no final text within ${maxRequests} requests`;
  } catch (error) {
    failed = error instanceof Error ? error.message : String(error);
  }
  return {
    ...{ messages, toolTurns, toolResults, requests, failed },
    completed: final !== undefined,
    finalResponse: final ?? "",
    wallclockS: seconds(performance.now() - begun),
  };
}

function requestOf(target: Target, messages: readonly Json[], offer: Offer, stream: boolean): Json {
  const tools = offer.tools.map(({ name, description, parameters }) => ({
    type: "function",
    function: { name, description, parameters },
  }));
  return {
    ...{ model: target.model, messages, temperature: 0, seed: 0, max_tokens: maxTokens },
    ...(tools.length > 0 ? { tools } : {}),
    ...(tools.length > 0 && offer.choice ? { tool_choice: offer.choice } : {}),
    ...(tools.length > 0 && offer.parallel !== undefined ? { parallel_tool_calls: offer.parallel } : {}),
    ...(stream ? { stream, stream_options: { include_usage: true } } : {}),
  };
}

async function ask(
  target: Target,
  body: Json,
  stream: boolean,
  { tools }: Offer,
  { summaryMs }: LoopOptions,
): Promise<Answer> {
  const path = "/v1/chat/completions";
  const limited = summaryMs !== undefined && tools.length === 0;
  const limit = limited ? { signal: AbortSignal.timeout(summaryMs) } : {};
  if (stream) {
    const begun = performance.now();
    return streamed(await target.open(path, body, limit), begun);
  }
  const json = ok(await target.post(path, body, limit));
  const message = at(json, "choices", 0, "message");
  if (!isObject(message)) throw new Error("expected choices[0].message, got none");
  const calls = listAt(message, "tool_calls").map((call) => ({
    id: textAt(call, "id"),
    name: textAt(call, "function", "name"),
    arguments: textAt(call, "function", "arguments"),
  }));
  const { finish_reason: finish } = at(json, "choices", 0) as Json;
  return {
    ...{ message, calls, usage: objectOrNull(at(json, "usage")), firstDeltaMs: null },
    finish: typeof finish === "string" ? finish : null,
  };
}

async function streamed(response: Response, begun: number): Promise<Answer> {
  const decoder = new TextDecoder();
  let text = "";
  let firstDeltaMs: number | null = null;
  // a refusal has no stream; its body is read below
  for await (const part of response.body ?? []) {
    text += decoder.decode(part, { stream: true });
    if (firstDeltaMs === null && hasDelta(text)) firstDeltaMs = performance.now() - begun;
  }
  const { status, headers } = response;
  const events = sseEvents(text);
  const { content, calls, finish, usage } = readChatStream({
    ...{ status, headers, text, json: undefined, ms: 0, headersMs: 0, events },
  });
  const message = {
    role: "assistant",
    content: content === "" && calls.length > 0 ? null : content,
    ...(calls.length > 0 ? { tool_calls: calls.map(wireCall) } : {}),
  };
  return { message, calls, finish, usage: objectOrNull(usage), firstDeltaMs };
}

/** Whether something was said or called in what came so far. */
function hasDelta(text: string): boolean {
  return /"(?:content|reasoning_content|reasoning)":"[^"]|"tool_calls":\[\{/.test(text);
}

function wireCall({ id, name, arguments: text }: LoopCall) {
  return { id, type: "function", function: { name, arguments: text } };
}

function objectOrNull(value: unknown): Json | null {
  return isObject(value) ? value : null;
}

function summaryOf(
  offer: Offer,
  stream: boolean,
  messageCount: number,
  { calls, finish, firstDeltaMs, usage }: Answer,
  durationMs: number,
): RequestSummary {
  return {
    stream,
    tool_choice: offer.tools.length > 0 ? (offer.choice ?? "auto") : null,
    parallel_tool_calls: offer.parallel ?? null,
    tools: offer.tools.map(({ name }) => name),
    message_count: messageCount,
    tool_calls: calls.map(({ name }) => name),
    finish_reason: finish,
    duration_s: seconds(durationMs),
    first_delta_s: firstDeltaMs === null ? null : seconds(firstDeltaMs),
    usage,
  };
}

/** Milliseconds as seconds of four digits after the point. */
export function seconds(ms: number): number {
  return Math.round(ms * 10) / 10_000;
}
