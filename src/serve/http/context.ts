import type { HttpError } from "./errors.ts";
import type { ManagementEvents } from "./management.ts";
import type { ServerMetrics } from "./metrics.ts";
import type { ServedModel, ServerSettings } from "./options.ts";
import type { RequestRecord } from "./request_log.ts";
import type { ResponseStore } from "./responses/store.ts";

/** What all requests of a server share. */
export type ServerState = {
  readonly settings: ServerSettings;
  readonly metrics: ServerMetrics;
  readonly responses: ResponseStore;
  readonly events: ManagementEvents;
  /** Throws 503 while loading, and when loading failed. */
  readonly model: () => ServedModel;
  readonly loadStatus: () => "loading" | "loaded" | "failed";
  readonly draining: () => boolean;
  /** Aborted when the server is told to stop at once. */
  readonly shutdown: AbortSignal;
  /** Ids of answers: a prefix fixed at start, then a number. */
  readonly nextId: (kind: string) => string;
};

/** What a handler gets: the request, the server, and a place for facts about the answer. */
export type RouteContext = {
  readonly state: ServerState;
  readonly request: Request;
  readonly params: Readonly<Record<string, string>>;
  readonly record: RequestRecord;
  /** Aborted when the client goes away or the server must stop. */
  readonly signal: AbortSignal;
  /** Place in the fair queue. */
  readonly client: string;
  /** The caller's key; callers with different keys share no cached prefixes. */
  readonly keyIndex: number | undefined;
  /** May be false for `/health` only. */
  readonly authorized: boolean;
  /** The answer may be silent for as long as it takes. */
  readonly allowSilence: () => void;
  /** Puts off the end of the request (log line, metrics) until the returned function is called. */
  readonly keepOpen: () => (outcome?: Outcome) => void;
};

/** How an answer ended whose headers had gone out before. */
export type Outcome = { readonly gone?: boolean; readonly error?: unknown };

export type Route = {
  readonly method: "GET" | "POST" | "DELETE";
  readonly path: string;
  /** Answered without a key. */
  readonly open?: true;
  /** The body of errors, where clients of this route expect another shape than OpenAI's. */
  readonly errorBody?: (error: HttpError, requestId: string) => object;
  readonly handle: (context: RouteContext) => Response | Promise<Response>;
};
