import { PsionicError } from "../../core/error.ts";
import { publicName } from "../models/names.ts";
import type { TakenModel } from "../models/set.ts";
import type { Outcome, Route, RouteContext, ServerState } from "./context.ts";
import {
  CLIENT_GONE,
  drainingError,
  HttpError,
  json,
  loadFailedError,
  loadingError,
  toHttpError,
} from "./errors.ts";
import { askedPath, jsonLine, type RequestRecord, textLine } from "./request_log.ts";
import { type CorsRule, checkHost, checkKey, corsHeaders, type HostRule, preflight } from "./security.ts";

/** Routes of one path by method; a path nobody knows has none. */
export type PathRoutes = { readonly pattern: string; readonly methods: ReadonlyMap<string, Route> };

export type Arrival = {
  readonly request: Request;
  readonly params: Readonly<Record<string, string>>;
  readonly address: string | undefined;
  readonly allowSilence: () => void;
};

/** What a request has until it ends. */
type Held = { readonly release: () => void };

export type Guards = { readonly hosts: HostRule; readonly cors: CorsRule };

/** Takes a request through the checks (host, origin, key) to its handler; whatever happens, an answer comes out. */
export async function answer(
  state: ServerState,
  guards: Guards,
  routes: PathRoutes,
  arrival: Arrival,
): Promise<Response> {
  const { request } = arrival;
  const record: RequestRecord = {
    id: state.nextId("req"),
    method: request.method,
    path: askedPath(request.url),
    route: routes.pattern,
    startedAt: performance.now(),
    status: 200,
  };
  state.metrics.inFlight.inc();
  state.activity.begin(record);
  const gone = request.signal;
  const held: Held[] = [];
  const finish = once((outcome: Outcome = {}) => {
    for (const one of held) one.release();
    endRequest(state, record, outcome.gone || gone.aborted, outcome.error);
  });
  let open = false;
  let cors: Record<string, string> = {};
  let response: Response;
  try {
    const host = hostOf(request);
    checkHost(guards.hosts, host);
    cors = corsHeaders(guards.cors, request, host);
    response = await route(state, routes, arrival, record, cors, held, () => {
      open = true;
      return finish;
    });
  } catch (thrown) {
    open = false;
    response = errorResponse(state, routes, record, thrown, gone.aborted);
  }
  record.status = gone.aborted && !open ? CLIENT_GONE : response.status;
  for (const [name, value] of Object.entries(cors)) response.headers.set(name, value);
  response.headers.set("x-request-id", record.id);
  // the name that Anthropic's clients read
  response.headers.set("request-id", record.id);
  response.headers.set("x-content-type-options", "nosniff");
  if (!open) finish();
  if (request.method === "HEAD" && open) {
    // nobody reads the stream, so it ends here
    await response.body?.cancel();
    return new Response(null, response);
  }
  // of another HEAD the socket leaves the body out and tells its length
  return response;
}

/** The Host header; of a request without a socket the URL's; empty for the old clients that send none. */
function hostOf(request: Request): string {
  return request.headers.get("host") ?? URL.parse(request.url)?.host ?? "";
}

async function route(
  state: ServerState,
  routes: PathRoutes,
  arrival: Arrival,
  record: RequestRecord,
  cors: Record<string, string>,
  held: Held[],
  keepOpen: RouteContext["keepOpen"],
): Promise<Response> {
  const { request } = arrival;
  const allow = allowed(routes);
  if (request.method === "OPTIONS" && routes.methods.size > 0) {
    if (request.headers.has("access-control-request-method")) return preflight(request, cors, allow);
    return new Response(null, { status: 204, headers: { allow } });
  }
  const found = routes.methods.get(request.method === "HEAD" ? "GET" : request.method);
  const { apiKeys } = state.settings;
  let keyIndex: number | undefined;
  let authorized = true;
  try {
    keyIndex = checkKey(apiKeys, request);
  } catch (refused) {
    if (!found?.open) throw refused;
    authorized = false;
  }
  if (!found) throw routes.methods.size > 0 ? wrongMethod(allow) : notFound();
  if (found.generates) state.models.expect();
  const client = keyIndex === undefined ? (arrival.address ?? "local") : `key ${keyIndex}`;
  const signal = AbortSignal.any([request.signal, state.shutdown]);
  const body = state.bodies.begin(client);
  held.push(body);
  return found.handle({
    state,
    request,
    params: arrival.params,
    record,
    signal,
    take: async (asked) => {
      // loading may take minutes
      arrival.allowSilence();
      const taken = await takeModel(state, asked, signal, record);
      held.push(taken);
      record.model = publicName(taken.served.engine.info);
      return { model: taken.served, name: taken.name };
    },
    client,
    keyIndex,
    authorized,
    body,
    inSteps: (steps) => state.slices.run(client, steps, signal),
    allowSilence: arrival.allowSilence,
    keepOpen,
  });
}

/** Throws what a request gets when its model cannot be had. */
async function takeModel(
  state: ServerState,
  asked: string | null | undefined,
  signal: AbortSignal,
  record: RequestRecord,
): Promise<TakenModel> {
  const { models } = state;
  if (models.status === "loading") throw loadingError();
  if (models.status === "failed") throw loadFailedError();
  if (state.draining()) throw drainingError();
  const taken = await models.take(asked, signal).catch((error: unknown) => {
    throw loadError(state, error, record);
  });
  if (taken) return taken;
  const name = asked ?? "";
  const shown = name.length > 128 ? `${name.slice(0, 125)}...` : name;
  throw new HttpError(400, `Model "${shown}" is not loaded; /v1/models lists what can be asked for.`, {
    code: "model_not_found",
    param: "model",
  });
}

/** Refusals keep their status and numbers; why a file could not be loaded is for the log alone. */
function loadError({ settings }: ServerState, error: unknown, { id }: RequestRecord): unknown {
  const told: readonly string[] = ["admission_refused", "cancelled", "invalid_request"];
  if (error instanceof PsionicError && told.includes(error.code)) return error;
  settings.onError(error, id);
  return loadFailedError(id);
}

function allowed(routes: PathRoutes): string {
  const names = [...routes.methods.keys()].flatMap((method) =>
    method === "GET" ? ["GET", "HEAD"] : [method],
  );
  return [...names, "OPTIONS"].join(", ");
}

function wrongMethod(allow: string): HttpError {
  return new HttpError(405, `This path takes ${allow}.`, { code: "method_not_allowed", headers: { allow } });
}

function notFound(): HttpError {
  const message =
    "There is nothing at this path. The API is at /v1/chat/completions, /v1/responses, /v1/messages, " +
    "/v1/completions and /v1/models (also without /v1).";
  return new HttpError(404, message, { code: "not_found" });
}

function errorResponse(
  state: ServerState,
  { methods }: PathRoutes,
  record: RequestRecord,
  thrown: unknown,
  gone: boolean,
): Response {
  const error = toHttpError(thrown, record);
  // A body that ends early throws whatever the socket says; that the client left is all there is to tell.
  if (!gone) record.error = error.code ?? String(error.status);
  if (error.status === 500 && !gone) state.settings.onError(thrown, record.id);
  const [route] = methods.values();
  return json(route?.errorBody?.(error, record.id) ?? error.body(), error.status, error.headers);
}

function endRequest(state: ServerState, record: RequestRecord, gone: boolean, error: unknown): void {
  const { metrics, settings } = state;
  if (gone) {
    record.status = CLIENT_GONE;
    metrics.clientsGone.inc();
  } else if (error !== undefined) {
    const known = toHttpError(error, record);
    record.error = known.code ?? String(known.status);
    if (known.status === 500) settings.onError(error, record.id);
  }
  const durationMs = performance.now() - record.startedAt;
  metrics.inFlight.dec();
  metrics.requests.inc({
    route: record.route,
    method: knownMethod(record.method),
    status: String(record.status),
  });
  metrics.duration.observe({ route: record.route }, durationMs / 1000);
  observe(state, record);
  state.activity.end(record, durationMs);
  settings.log(settings.logFormat === "json" ? jsonLine(record, durationMs) : textLine(record, durationMs));
}

function observe({ metrics }: ServerState, { summary, ignored, model = "" }: RequestRecord): void {
  if (ignored) metrics.ignoredFields.inc(ignored);
  if (!summary) return;
  const { firstTokenMs, queueMs, prefillMs, unparsedTokens } = summary;
  if (firstTokenMs !== undefined) metrics.firstToken.observe({ model }, firstTokenMs / 1000);
  if (queueMs !== undefined) metrics.queueTime.observe({ model }, queueMs / 1000);
  if (prefillMs !== undefined) metrics.prefillTime.observe({ model }, prefillMs / 1000);
  if (unparsedTokens > 0) metrics.unparsedTokens.inc({ model }, unparsedTokens);
}

/** Methods come from outside; a metric must not grow a label for each invention. */
function knownMethod(method: string): string {
  return ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].includes(method) ? method : "other";
}

function once<A extends unknown[]>(act: (...args: A) => void): (...args: A) => void {
  let done = false;
  return (...args) => {
    if (done) return;
    done = true;
    act(...args);
  };
}
