import { PsionicError } from "../../core/error.ts";

/** The body of every answer that is not a success, and of an error in the middle of a stream. */
export type ErrorBody = {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
};

export type HttpErrorFacts = {
  readonly type?: string;
  readonly param?: string;
  readonly code?: string;
  readonly headers?: Readonly<Record<string, string>>;
};

/** An answer with an error status; its message is meant for the client. */
export class HttpError extends Error {
  readonly status: number;
  readonly type: string;
  readonly param: string | null;
  readonly code: string | null;
  readonly headers: Readonly<Record<string, string>>;

  constructor(status: number, message: string, facts: HttpErrorFacts = {}) {
    super(message);
    this.name = "HttpError";
    this.status = status;
    this.type = facts.type ?? (status >= 500 ? "server_error" : "invalid_request_error");
    this.param = facts.param ?? null;
    this.code = facts.code ?? null;
    this.headers = facts.headers ?? {};
  }

  body(): ErrorBody {
    return { error: { message: this.message, type: this.type, param: this.param, code: this.code } };
  }
}

/** A 400 that names the field: `[param] expected X, got Y. Fix.` */
export function badField(
  param: string,
  expected: string,
  got: string,
  fix?: string,
  code?: string,
): HttpError {
  const message = `[${param}] expected ${expected}, got ${got}${fix ? `. ${fix}` : ""}`;
  return new HttpError(400, message, { param, code: code ?? "invalid_value" });
}

/** A 400 for a known field whose effect is not implemented. */
export function unsupportedField(param: string, what: string, fix: string): HttpError {
  return new HttpError(400, `[${param}] ${what} is not supported. ${fix}`, {
    param,
    code: "unsupported_parameter",
  });
}

/** Nginx's number for "the client went away"; only the log ever sees it. */
export const CLIENT_GONE = 499;

/** Seconds a client should wait before it tries again. */
const retryAfterSeconds = "1";

const overloaded = { type: "backend_unavailable", headers: { "retry-after": retryAfterSeconds } } as const;

export function loadingError(): HttpError {
  return new HttpError(503, "The model is still loading.", { ...overloaded, code: "model_loading" });
}

/** `requestId`: where the log has the cause. */
export function loadFailedError(requestId?: string): HttpError {
  const where = requestId === undefined ? "" : ` The server's log has the cause under ${requestId}.`;
  return new HttpError(503, `The model could not be loaded.${where}`, {
    type: "backend_unavailable",
    code: "load_failed",
  });
}

export function drainingError(): HttpError {
  return new HttpError(503, "The server is shutting down.", {
    type: "backend_unavailable",
    code: "shutting_down",
    headers: { connection: "close", "x-should-retry": "false" },
  });
}

/** Memory that other models hold will be free again; what does not fit alone never will. */
function refusedFor({ details }: PsionicError): HttpErrorFacts {
  if (Array.isArray(details.loaded)) return overloaded;
  return { type: overloaded.type, headers: { "x-should-retry": "false" } };
}

/** Where a route's request has the text that becomes the prompt. */
const promptFields: Readonly<Record<string, string>> = {
  "/v1/chat/completions": "messages",
  "/v1/embeddings": "input",
  "/v1/messages": "messages",
  "/v1/messages/count_tokens": "messages",
  "/v1/rerank": "documents",
  "/v1/responses": "input",
  "/v1/responses/input_tokens": "input",
};

/** The one place that turns anything thrown into a status and a body. Internals never reach the client. */
export function toHttpError(
  thrown: unknown,
  record: { readonly id: string; readonly route: string; readonly limitField?: string },
): HttpError {
  if (thrown instanceof HttpError) return thrown;
  if (thrown instanceof PsionicError) {
    const prompt = promptFields[record.route] ?? "prompt";
    const known = fromPsionicError(thrown, { prompt, limit: record.limitField ?? "max_tokens" });
    if (known) return known;
  }
  return new HttpError(500, `The server failed on this request; its log has the cause under ${record.id}.`, {
    code: "internal",
  });
}

/** What a request calls its prompt and the limit of its answer. */
type Fields = { readonly prompt: string; readonly limit: string };

function fromPsionicError(error: PsionicError, fields: Fields): HttpError | undefined {
  switch (error.code) {
    case "context_overflow":
      return contextError(error.details, fields);
    case "invalid_request": {
      const param = wireName(error.details.param);
      const message = param ? error.message.replace(/^\[[^\]]*\]/, `[${param}]`) : error.message;
      return new HttpError(400, message, { code: "invalid_value", ...(param ? { param } : {}) });
    }
    case "unsupported": {
      if (typeof error.details.field === "string") return formError(error, error.details.field);
      const param = wireName(error.details.param);
      return new HttpError(400, error.message, { code: "unsupported", ...(param ? { param } : {}) });
    }
    case "model_not_found":
      return new HttpError(404, error.message, { code: "model_not_found", param: "model" });
    case "queue_full":
      if (typeof error.details.ownWaiting === "number") return ownQueueError(error.details.ownWaiting);
      return new HttpError(503, `The queue is full${queueFacts(error.details)}. Try again later.`, {
        ...overloaded,
        code: "queue_full",
      });
    case "admission_refused":
      return new HttpError(503, error.message, { ...refusedFor(error), code: "admission_refused" });
    case "cancelled":
      return new HttpError(503, "The request was cancelled by the server.", {
        type: "backend_unavailable",
        code: "cancelled",
      });
    default:
      return undefined;
  }
}

/** Others would get a place. Clients of OpenAI's API read how long to wait from the message, some of them. */
function ownQueueError(waiting: number): HttpError {
  const message = `${waiting} requests of this client are waiting already. Please try again in ${retryAfterSeconds}s.`;
  return new HttpError(429, message, {
    type: "rate_limit_error",
    code: "rate_limit_exceeded",
    headers: { "retry-after": retryAfterSeconds },
  });
}

/** A form of answers that is not served, in a field of the request: what it fails on, and where that stands in a schema. */
function formError({ message, details }: PsionicError, field: string): HttpError {
  const param = typeof details.pointer === "string" ? `${field}#${details.pointer}` : field;
  const code = details.keyword === undefined ? "invalid_value" : "unsupported_parameter";
  return new HttpError(400, `[${field}] ${message}`, { param, code });
}

function contextError(details: Readonly<Record<string, unknown>>, { prompt, limit }: Fields): HttpError {
  const { promptTokens, contextLength, maxTokens } = details;
  const asked = maxTokens === undefined ? "" : ` and ${limit} asks for ${maxTokens} more`;
  return new HttpError(
    400,
    `This model's context is ${contextLength} tokens, but the prompt has ${promptTokens}${asked}. ` +
      `Shorten the prompt${maxTokens === undefined ? "" : `, lower ${limit}`} or load the model with a larger context.`,
    { code: "context_length_exceeded", param: maxTokens === undefined ? prompt : limit },
  );
}

/** All bodies together; they are let go as their requests end. */
export function bodiesFull(mostBytes: number): HttpError {
  return new HttpError(
    503,
    `Bodies of requests under way fill the limit of ${mostBytes} bytes. Try again later.`,
    {
      ...overloaded,
      code: "bodies_full",
    },
  );
}

/** The client's own share of them; others would get a place. */
export function ownBodiesFull(mostBytes: number): HttpError {
  const message =
    `Bodies of this client's requests under way fill its share of ${mostBytes} bytes. ` +
    `Please try again in ${retryAfterSeconds}s.`;
  return new HttpError(429, message, {
    type: "rate_limit_error",
    code: "rate_limit_exceeded",
    headers: { "retry-after": retryAfterSeconds },
  });
}

/** The body began and did not come to its end. */
export function bodyTimeout(limitMs: number): HttpError {
  return new HttpError(408, `The body did not arrive within ${Math.round(limitMs / 1000)} s.`, {
    code: "body_timeout",
    headers: { connection: "close" },
  });
}

function queueFacts(details: Readonly<Record<string, unknown>>): string {
  return typeof details.maxQueue === "number" ? ` (${details.maxQueue} requests are waiting)` : "";
}

const engineNames: Readonly<Record<string, string>> = { choices: "n", stopTokens: "stop_token_ids" };

/** The name a client knows an engine field by. */
function wireName(param: unknown): string | undefined {
  if (typeof param !== "string") return undefined;
  return engineNames[param] ?? param.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** A JSON answer. */
export function json(body: unknown, status = 200, headers: Readonly<Record<string, string>> = {}): Response {
  return jsonText(JSON.stringify(body), status, headers);
}

/** A JSON answer of which the text is there already. */
export function jsonText(
  text: string | Uint8Array | ReadableStream<Uint8Array>,
  status = 200,
  headers: Readonly<Record<string, string>> = {},
): Response {
  return new Response(text as BodyInit, {
    status,
    headers: { "content-type": "application/json; charset=utf-8", ...headers },
  });
}
