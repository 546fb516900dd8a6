import type { Steps } from "../../core/steps.ts";
import type { GrammarCompiler } from "../grammar/index.ts";
import type { ModelSet } from "../models/set.ts";
import type { Activity } from "./activity.ts";
import type { Bodies, BodyShare } from "./bodies.ts";
import type { HttpError } from "./errors.ts";
import type { ManagementEvents } from "./management.ts";
import type { ServerMetrics } from "./metrics.ts";
import type { ServedModel, ServerSettings } from "./options.ts";
import type { RequestRecord } from "./request_log.ts";
import type { ResponseStore } from "./responses/store.ts";
import type { Slices } from "./slices.ts";

/** What all requests of a server share. */
export type ServerState = {
  readonly settings: ServerSettings;
  readonly metrics: ServerMetrics;
  readonly responses: ResponseStore;
  readonly events: ManagementEvents;
  readonly activity: Activity;
  readonly models: ModelSet;
  readonly grammars: GrammarCompiler;
  readonly slices: Slices;
  readonly bodies: Bodies;
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
  /**
   * The model that a request names, loaded if it has to be and kept until the request's answer has ended. Throws 400
   * for a name nobody has, 503 while the server starts, when loading failed, or when memory does not suffice.
   */
  readonly take: (asked: string | null | undefined) => Promise<RequestedModel>;
  /** The caller's key; callers with different keys share no cached prefixes. */
  readonly keyIndex: number | undefined;
  /** May be false for `/health` only. */
  readonly authorized: boolean;
  /** Counts the request's body until the request has ended. */
  readonly body: BodyShare;
  /** Does work that may be long, in slices between which others are answered. */
  readonly inSteps: <T>(steps: Steps<T>) => Promise<T>;
  /** The answer may be silent for as long as it takes. */
  readonly allowSilence: () => void;
  /** Puts off the end of the request (log line, metrics) until the returned function is called. */
  readonly keepOpen: () => (outcome?: Outcome) => void;
};

/** A model as a request sees it. */
export type RequestedModel = {
  readonly model: ServedModel;
  /** As the request spells it, else the public name; answers repeat it. */
  readonly name: string;
};

/** How an answer ended whose headers had gone out before. */
export type Outcome = { readonly gone?: boolean; readonly error?: unknown };

export type Route = {
  readonly method: "GET" | "POST" | "DELETE";
  readonly path: string;
  /** Answered without a key. */
  readonly open?: true;
  /** An engine will have to do with its requests. */
  readonly generates?: true;
  /** The body of errors, where clients of this route expect another shape than OpenAI's. */
  readonly errorBody?: (error: HttpError, requestId: string) => object;
  readonly handle: (context: RouteContext) => Response | Promise<Response>;
};
