import { unexpected } from "../../core/error.ts";
import { listAt, parsed, textAt } from "./json.ts";
import { Breach } from "./probe.ts";
import { type SseEvent, sseEvents } from "./sse.ts";

/** An answer that was read to its end. */
export type Reply = {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  /** Undefined where the body is no JSON. */
  readonly json: unknown;
  /** From sending the request to the end of the answer, milliseconds. */
  readonly ms: number;
};

/** A stream that was read to its end, or the answer that came instead of one. */
export type StreamReply = Reply & {
  readonly events: readonly SseEvent[];
  /** From sending the request to the headers, milliseconds. */
  readonly headersMs: number;
};

export type Ask = {
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** Sent instead of the target's key; null sends none. */
  readonly apiKey?: string | null;
  readonly method?: string;
};

/** A server under test. */
export type Target = {
  /** Without `/v1` and without a slash at the end. */
  readonly root: string;
  readonly model: string;
  readonly apiKey: string | undefined;
  readonly get: (path: string, ask?: Ask) => Promise<Reply>;
  /** A body that is a string goes as it is. */
  readonly post: (path: string, body: unknown, ask?: Ask) => Promise<Reply>;
  readonly stream: (path: string, body: unknown, ask?: Ask) => Promise<StreamReply>;
  /** The response as it begins; for what happens while it runs. */
  readonly open: (path: string, body: unknown, ask?: Ask) => Promise<Response>;
};

/** Longest wait for an answer of a probe, milliseconds. */
const probeMs = 120_000;

/** Longest wait for the first word of a server, milliseconds. */
const firstMs = 15_000;

/** `http://host:port/v1/` and `http://host:port` are the same server. */
export function rootOf(baseUrl: string): string {
  const url = URL.parse(baseUrl);
  if (!url || !/^https?:$/.test(url.protocol)) {
    const fix = "Give it as http://127.0.0.1:8080/v1";
    throw unexpected("invalid_argument", "base-url", "an http or https URL", baseUrl, { fix });
  }
  return baseUrl.replace(/\/+$/, "").replace(/\/v1$/, "");
}

/** `patienceMs`: longest wait for one answer. */
export function makeTarget(
  root: string,
  model: string,
  apiKey: string | undefined,
  patienceMs = probeMs,
): Target {
  const send = (path: string, init: RequestInit, ask: Ask): Promise<Response> => {
    const key = ask.apiKey === undefined ? apiKey : ask.apiKey;
    const limit = AbortSignal.timeout(patienceMs);
    return fetch(root + path, {
      ...init,
      ...(ask.method ? { method: ask.method } : {}),
      redirect: "manual",
      signal: ask.signal ? AbortSignal.any([ask.signal, limit]) : limit,
      headers: {
        ...(init.body === undefined ? {} : { "content-type": "application/json" }),
        ...(key ? { authorization: `Bearer ${key}` } : {}),
        ...ask.headers,
      },
    });
  };
  const open = (path: string, body: unknown, ask: Ask = {}): Promise<Response> => {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    return send(path, { method: "POST", body: text }, ask);
  };
  return {
    ...{ root, model, apiKey, open },
    get: (path, ask = {}) => read(() => send(path, {}, ask)),
    post: (path, body, ask = {}) => read(() => open(path, body, ask)),
    stream: async (path, body, ask = {}) => {
      const begun = performance.now();
      const response = await open(path, body, ask);
      const headersMs = performance.now() - begun;
      const reply = await readBody(response, begun);
      return { ...reply, headersMs, events: isStream(response) ? sseEvents(reply.text) : [] };
    },
  };
}

async function read(send: () => Promise<Response>): Promise<Reply> {
  const begun = performance.now();
  return readBody(await send(), begun);
}

async function readBody(response: Response, begun: number): Promise<Reply> {
  const text = await response.text();
  const { status, headers } = response;
  return { status, headers, text, json: parsed(text), ms: performance.now() - begun };
}

function isStream(response: Response): boolean {
  return response.headers.get("content-type")?.startsWith("text/event-stream") ?? false;
}

/** The first model that a server lists. */
export async function firstModel(root: string, apiKey: string | undefined): Promise<string> {
  const ask = { signal: AbortSignal.timeout(firstMs) };
  const fix = "Is a server running there, and does it need --api-key? Name a model with --model";
  const expected = "a model in the answer of /v1/models";
  let list: Reply;
  try {
    list = await makeTarget(root, "", apiKey).get("/v1/models", ask);
  } catch (cause) {
    const got = cause instanceof Error ? cause.message : String(cause);
    throw unexpected("io_failed", root, expected, got, { fix, cause });
  }
  const id = textAt(listAt(list.json, "data")[0], "id");
  if (list.status === 200 && id !== "") return id;
  throw unexpected("io_failed", root, expected, `status ${list.status}`, { fix });
}

/** The JSON of an answer with status 200; anything else fails the probe. */
export function ok(reply: Reply): unknown {
  if (reply.status === 200 && reply.json !== undefined) return reply.json;
  throw new Breach(`expected 200 with JSON, got ${reply.status} ${reply.text.slice(0, 200)}`);
}
