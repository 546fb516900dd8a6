import { eventData } from "./events.ts";
import { remember, remembered } from "./storage.ts";

/** What a server says about a request that failed; status 0: it could not be reached. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string | undefined;
  readonly requestId: string | undefined;

  constructor(status: number, message: string, code?: string, requestId?: string) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.requestId = requestId;
  }
}

export type ModelCard = {
  readonly id: string;
  readonly display_name?: string;
  readonly context_length?: number | null;
  readonly capabilities?: readonly string[];
  readonly meta?: Readonly<Record<string, unknown>>;
  readonly [name: string]: unknown;
};

export type Usage = {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly prompt_tokens_details?: { readonly cached_tokens?: number };
  readonly completion_tokens_details?: { readonly reasoning_tokens?: number };
};

export type ToolDelta = {
  readonly index: number;
  readonly id?: string;
  readonly function?: { readonly name?: string; readonly arguments?: string };
};

/** One piece of a streamed answer. */
export type Piece =
  | { readonly type: "content" | "reasoning"; readonly text: string }
  | { readonly type: "tool"; readonly delta: ToolDelta }
  | { readonly type: "finish"; readonly reason: string }
  | { readonly type: "usage"; readonly usage: Usage };

const keyName = "key";

export function apiKey(): string | undefined {
  return remembered("tab", keyName);
}

export function setApiKey(key: string | undefined): void {
  remember("tab", keyName, key);
}

async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const key = apiKey();
  const headers = { ...init.headers, ...(key === undefined ? {} : { authorization: `Bearer ${key}` }) };
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, cache: "no-store" });
  } catch (cause) {
    if (init.signal?.aborted) throw cause;
    throw new ApiError(0, "The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response: Response): Promise<ApiError> {
  const id = response.headers.get("x-request-id") ?? undefined;
  const text = await response.text().catch(() => "");
  const told = errorOf(parsed(text));
  const message = told?.message ?? (text.trim().slice(0, 2000) || response.statusText || "No message came.");
  return new ApiError(response.status, message, told?.code, id);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function errorOf(body: unknown): { readonly message: string; readonly code?: string } | undefined {
  const error = (body as { error?: { message?: unknown; code?: unknown } } | undefined | null)?.error;
  if (typeof error?.message !== "string") return undefined;
  return {
    message: error.message,
    ...(typeof error.code === "string" ? { code: error.code } : {}),
  };
}

/** JSON of a GET. */
export async function getJson(path: string): Promise<unknown> {
  return (await request(path)).json();
}

export async function listModels(): Promise<readonly ModelCard[]> {
  const list = (await getJson("v1/models")) as { data?: readonly ModelCard[] };
  return list.data ?? [];
}

export type Stream = {
  readonly requestId: string | undefined;
  readonly pieces: AsyncIterable<Piece>;
};

/** Asks for a chat completion. Leaving the pieces, or aborting, stops the server's work. */
export async function streamChat(body: object, signal: AbortSignal): Promise<Stream> {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const requestId = response.headers.get("x-request-id") ?? undefined;
  if (response.body === null)
    throw new ApiError(response.status, "The answer has no body.", undefined, requestId);
  return { requestId, pieces: piecesOf(response.body, signal, requestId) };
}

type Chunk = {
  readonly choices?: readonly {
    readonly delta?: {
      readonly content?: string | null;
      readonly reasoning_content?: string | null;
      readonly tool_calls?: readonly ToolDelta[];
    };
    readonly finish_reason?: string | null;
  }[];
  readonly usage?: Usage | null;
};

async function* piecesOf(
  body: ReadableStream<Uint8Array>,
  signal: AbortSignal,
  requestId: string | undefined,
): AsyncGenerator<Piece, void, void> {
  let complete = false;
  try {
    for await (const data of eventData(body)) {
      if (data === "[DONE]") {
        complete = true;
        break;
      }
      const chunk = parsed(data);
      const told = errorOf(chunk);
      if (told) throw new ApiError(200, told.message, told.code, requestId);
      yield* pieces(chunk as Chunk);
    }
  } catch (cause) {
    if (signal.aborted || cause instanceof ApiError) throw cause;
    throw new ApiError(0, "The connection to the server was lost.", undefined, requestId);
  }
  if (!complete) throw new ApiError(0, "The answer ended before it was complete.", undefined, requestId);
}

function* pieces(chunk: Chunk | undefined): Generator<Piece, void, void> {
  for (const { delta, finish_reason } of chunk?.choices ?? []) {
    if (delta?.reasoning_content) yield { type: "reasoning", text: delta.reasoning_content };
    if (delta?.content) yield { type: "content", text: delta.content };
    for (const call of delta?.tool_calls ?? []) yield { type: "tool", delta: call };
    if (finish_reason) yield { type: "finish", reason: finish_reason };
  }
  if (chunk?.usage) yield { type: "usage", usage: chunk.usage };
}
