import { at, isCount, isObject, type Json, listAt, parsed, textAt } from "./json.ts";
import { must } from "./probe.ts";
import type { SseEvent } from "./sse.ts";
import { ok, type Reply, type StreamReply, type Target } from "./target.ts";

/** Tokens that an answer may have where the probe is about its form. */
export const fewTokens = 24;

export const question = [{ role: "user", content: "Why does HTTPS matter?" }] as const;

/** A chat request of the target's model, greedy and short unless `more` says otherwise. */
export function chat(target: Target, more: Json = {}): Json {
  return { model: target.model, messages: question, temperature: 0, max_tokens: fewTokens, ...more };
}

/** The only choice of a whole answer to a chat request. */
export function readChoice(reply: Reply): unknown {
  const choice = at(ok(reply), "choices", 0);
  must(isObject(at(choice, "message")), "choices[0].message", reply.json);
  return choice;
}

export const weatherParameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
} as const;

/** The tool that probes offer in chat completions. */
export const weatherTool = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Current weather of a city",
    parameters: weatherParameters,
  },
} as const;

export const weatherQuestion = [
  { role: "user", content: "What is the weather in Oslo? Use the tool." },
] as const;

/** Why clients fail on an error body; they read `error.message` and perhaps `type`, `code`. */
export function mustBeError(reply: Reply, ...statuses: readonly number[]): string {
  must(statuses.includes(reply.status), `status ${statuses.join(" or ")}`, `${reply.status} ${reply.text}`);
  const message = at(reply.json, "error", "message");
  must(
    typeof message === "string" && message !== "",
    "error.message, a text, in a JSON body",
    reply.json ?? reply.text,
  );
  const code = at(reply.json, "error", "code");
  const fine = code === undefined || code === null || typeof code === "string" || typeof code === "number";
  must(fine, "error.code as a text, a number or null", code);
  return message;
}

/** A stream that began: 200 with server-sent events. */
export function mustStream(reply: StreamReply): readonly SseEvent[] {
  must(reply.status === 200, "status 200", `${reply.status} ${reply.text}`);
  const type = reply.headers.get("content-type") ?? "no content-type";
  must(type.startsWith("text/event-stream"), "content-type text/event-stream", type);
  must(reply.events.length > 0, "events", reply.text);
  return reply.events;
}

export type StreamedCall = { index: number; id: string; name: string; arguments: string };

/** What a client has gathered from the chunks of a chat stream. */
export type ChatStream = {
  readonly chunks: readonly Json[];
  readonly content: string;
  readonly reasoning: string;
  readonly calls: readonly StreamedCall[];
  /** The finish reason of choice 0. */
  readonly finish: string;
  readonly usage: unknown;
};

const isIndex = (value: unknown): value is number => isCount(value) && value <= 127;

/** Reads a chat stream as strictly as OpenAI's own client does. */
export function readChatStream(reply: StreamReply): ChatStream {
  const events = mustStream(reply);
  must(events.at(-1)?.data === "[DONE]", "data: [DONE] at the end", events.at(-1)?.data);
  const chunks = events.slice(0, -1).map(({ data }) => {
    const chunk = parsed(data);
    must(isObject(chunk), "a JSON object in every event", data);
    must(!chunk.error, "no error in the stream", data);
    must(Array.isArray(chunk.choices), "choices, an array, in every chunk", data);
    return chunk;
  });
  const calls = new Map<number, StreamedCall>();
  const finish = new Map<number, string>();
  const roles = new Set<number>();
  let [content, reasoning] = ["", ""];
  let usage: unknown;
  for (const chunk of chunks) {
    usage = chunk.usage ?? usage;
    for (const choice of listAt(chunk, "choices")) {
      const index = at(choice, "index");
      must(isIndex(index), "choice.index, a whole number from 0 to 127", choice);
      const role = at(choice, "delta", "role");
      if (role !== undefined && role !== null && role !== "") {
        must(role === "assistant", "delta.role assistant", role);
        roles.add(index);
      }
      content += textAt(choice, "delta", "content");
      reasoning += textAt(choice, "delta", "reasoning_content") || textAt(choice, "delta", "reasoning");
      for (const delta of listAt(choice, "delta", "tool_calls")) gather(calls, delta);
      const reason = at(choice, "finish_reason");
      if (typeof reason === "string") finish.set(index, reason);
    }
  }
  must(roles.has(0), "delta.role in some chunk", "none");
  must(finish.has(0), "a finish_reason in some chunk", "none");
  for (const call of calls.values()) must(call.name !== "", "function.name of every tool call", call);
  return { chunks, content, reasoning, calls: [...calls.values()], finish: finish.get(0)!, usage };
}

function gather(calls: Map<number, StreamedCall>, delta: unknown): void {
  const index = at(delta, "index");
  must(isIndex(index), "tool call index, a whole number from 0 to 127", delta);
  must(isObject(at(delta, "function")), "function, an object, in every tool delta", delta);
  const known = calls.get(index);
  const [id, name] = [at(delta, "id"), at(delta, "function", "name")];
  const text = at(delta, "function", "arguments");
  if (!known) {
    must(typeof id === "string" && id !== "", "an id in the first delta of a tool call", delta);
    must(at(delta, "type") === "function", "type function in the first delta of a tool call", delta);
    must(typeof name === "string" && name !== "", "function.name in the first delta", delta);
    must(typeof text === "string", "function.arguments, a text, in the first delta", delta);
    calls.set(index, { index, id, name, arguments: text });
    return;
  }
  must(name === undefined || name === null || name === known.name, `the name ${known.name} or none`, name);
  must(text === undefined || typeof text === "string", "function.arguments as a text", text);
  known.arguments += text ?? "";
}

/** The counts that clients read, where they are sums and whole numbers. */
export function mustBeUsage(usage: unknown): void {
  must(isObject(usage), "usage, an object", usage);
  const { prompt_tokens: prompt, completion_tokens: completion, total_tokens: total } = usage;
  must(isCount(prompt) && isCount(completion) && isCount(total), "usage in whole numbers", usage);
  must(total === prompt + completion, "total_tokens as the sum of the two others", usage);
  for (const path of [
    ["prompt_tokens_details", "cached_tokens"],
    ["completion_tokens_details", "reasoning_tokens"],
  ] as const) {
    const count = at(usage, ...path);
    must(count === undefined || count === null || isCount(count), `${path.join(".")} as a number`, count);
  }
}

/** Control markup of the known chat formats, which belongs in no text that a client sees. */
const markup =
  /<\|(?:channel|start|end|message|call|return|constrain|im_start|im_end|tool_call|tool_response)\|?>|<\/?tool_call>|<tool_call\|>/;

export function mustBeClean(where: string, text: string): void {
  must(!markup.test(text), `${where} without control markup`, text);
}

/** Context length by every name that clients look for in a model's entry. */
export function contextOf(card: unknown): number | undefined {
  for (const path of [
    ["n_ctx"],
    ["meta", "n_ctx"],
    ["max_model_len"],
    ["context_length"],
    ["context_window"],
    ["max_context_length"],
    ["meta", "n_ctx_train"],
  ] as const) {
    const length = at(card, ...path);
    if (isCount(length) && length > 0) return length;
  }
  return undefined;
}

/** The target's entry in its model list; the only one where the name is not listed. */
export async function modelEntry(target: Target): Promise<unknown> {
  const { json } = await target.get("/v1/models");
  const entries = listAt(json, "data");
  return entries.find((entry) => at(entry, "id") === target.model) ?? entries[0];
}
