import { Elysia } from "elysia";
import { unexpected } from "../../core/error.ts";
import { GrammarCompiler } from "../grammar/index.ts";
import { ModelSet } from "../models/set.ts";
import { pageRoute } from "../page/route.ts";
import { Activity } from "./activity.ts";
import { Bodies } from "./bodies.ts";
import type { Route, ServerState } from "./context.ts";
import { ManagementEvents } from "./management.ts";
import { ServerMetrics } from "./metrics.ts";
import { type ServedModel, type ServerOptions, serverSettings } from "./options.ts";
import { type Arrival, answer, type Guards, type PathRoutes } from "./pipeline.ts";
import { Rehearsal, type Rehearse } from "./rehearsal.ts";
import { ResponseStore } from "./responses/store.ts";
import { routes } from "./routes/index.ts";
import { checkBind, corsRule, hostRule } from "./security.ts";
import { Slices } from "./slices.ts";

export type RunningServer = {
  /** `http://host:port` */
  readonly url: string;
  readonly port: number;
  /** Resolves when the model that the server begins with, if any, is loaded; rejects when loading it fails. */
  readonly ready: Promise<ServedModel | undefined>;
  /** Answers a request without a socket; for tests. */
  readonly handle: (request: Request) => Promise<Response>;
  /**
   * Stops listening, waits for running answers and resolves; with `force` they end at once. May be called again to
   * force. The models stay open: who made them closes them.
   */
  readonly stop: (options?: { readonly force?: boolean }) => Promise<void>;
};

/**
 * Listens at once and answers 503 until the first model is there. Throws `invalid_argument` when asked to listen beyond this
 * machine without keys, `io_failed` when the port is taken.
 */
export async function startServer(
  model: ServedModel | Promise<ServedModel> | ModelSet,
  options: ServerOptions = {},
): Promise<RunningServer> {
  const settings = serverSettings(options);
  checkBind(settings.host, settings.apiKeys, settings.allowUnauthenticated);
  const models = model instanceof ModelSet ? model : ModelSet.of(model);
  const shutdown = new AbortController();
  const { state, drain } = makeState(settings, models, shutdown.signal);
  const guards = {
    hosts: hostRule(settings.host, settings.allowedHosts),
    cors: corsRule(settings.corsOrigins),
  };
  const busy = () => state.bodies.heldBytes > 0;
  const rehearsal = new Rehearsal(models, settings.rehearsalMs, busy, rehearsing(settings, guards));
  const app = makeApp(state, guards, rehearsal);
  listen(app, settings.host, settings.port);
  const server = app.server!;
  const host = settings.host.includes(":") ? `[${settings.host.replace(/^\[|\]$/g, "")}]` : settings.host;
  return {
    url: `http://${host}:${server.port}`,
    port: server.port ?? settings.port,
    ready: models.ready,
    handle: (request) => app.handle(request),
    stop: async ({ force = false } = {}) => {
      drain();
      rehearsal.close();
      if (force) shutdown.abort(new DOMException("The server is shutting down.", "AbortError"));
      await app.server?.stop(force);
      state.grammars.close();
    },
  };
}

function makeState(
  settings: ServerState["settings"],
  models: ModelSet,
  shutdown: AbortSignal,
): { readonly state: ServerState; readonly drain: () => void } {
  let draining = false;
  const prefix = `${Date.now().toString(16)}-${process.pid.toString(16)}`;
  let count = 0;
  const bodies = new Bodies(settings.limits.bodiesBytes);
  const state: ServerState = {
    settings,
    metrics: new ServerMetrics(models, () => bodies.heldBytes),
    models,
    grammars: new GrammarCompiler(),
    slices: new Slices(),
    bodies,
    responses: new ResponseStore(),
    events: new ManagementEvents(),
    activity: new Activity(() => models.rows.flatMap(({ served }) => (served ? [served.engine] : []))),
    shutdown,
    draining: () => draining,
    nextId: (kind) => `psionic-${kind}-${prefix}-${++count}`,
  };
  models.listen(({ type }) => {
    if (type === "loaded" || type === "unloaded") state.events.changed(state);
  });
  return {
    state,
    drain: () => {
      draining = true;
      state.events.close();
      state.activity.close();
    },
  };
}

/** Makes a server for a set of models, without a socket, of which nobody learns anything. */
function rehearsing(settings: ServerState["settings"], guards: Guards): Rehearse {
  const quiet = { ...settings, apiKeys: undefined, log: () => {}, onError: () => {} };
  const all = new Map(byPath(routes).map(({ pattern, methods }) => [`/v1${pattern}`, methods]));
  return (models) => {
    const { state } = makeState(quiet, models, new AbortController().signal);
    state.activity.close();
    return (pattern, request) => {
      const arrival = { request, params: {}, address: undefined, allowSilence: () => {} };
      return answer(state, guards, { pattern, methods: all.get(pattern)! }, arrival);
    };
  };
}

/**
 * Every path with and without `/v1`, every method through the same checks; unknown paths too. Handlers name what they take of
 * Elysia's context: of one that is handed on whole it makes all of it for each request, cookies and copies of the headers too.
 */
function makeApp(state: ServerState, guards: Guards, rehearsal: Rehearsal) {
  const nowhere: PathRoutes = { pattern: "unmatched", methods: new Map() };
  const app = new Elysia({
    serve: {
      // Our own limit answers in the error shape; the socket's would close without a word.
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
      idleTimeout: 60,
    },
  });
  // Only what goes wrong before a handler runs comes here: a path that does not decode, say.
  app.onError(({ request }) =>
    answer(state, guards, nowhere, arrivalOf({ request, params: {}, server: app.server })),
  );
  for (const { pattern, methods } of byPath(routes)) {
    for (const path of [pattern, `/v1${pattern}`]) {
      const found = { pattern: `/v1${pattern}`, methods };
      app.all(
        path,
        ({ request, params, server }) => {
          rehearsal.heard(found.pattern);
          return answer(state, guards, found, arrivalOf({ request, params, server }));
        },
        { parse: "none" },
      );
    }
  }
  const home: PathRoutes = state.settings.page
    ? { pattern: "/", methods: new Map([["GET", pageRoute]]) }
    : nowhere;
  app.all(
    "/",
    ({ request, params, server }) => answer(state, guards, home, arrivalOf({ request, params, server })),
    { parse: "none" },
  );
  app.all(
    "/*",
    ({ request, params, server }) => answer(state, guards, nowhere, arrivalOf({ request, params, server })),
    { parse: "none" },
  );
  return app;
}

function byPath(all: readonly Route[]): PathRoutes[] {
  const paths = new Map<string, Map<string, Route>>();
  for (const route of all) {
    const methods = paths.get(route.path) ?? new Map<string, Route>();
    methods.set(route.method, route);
    paths.set(route.path, methods);
  }
  return [...paths].map(([pattern, methods]) => ({ pattern, methods }));
}

type Arriving = {
  readonly request: Request;
  readonly params: Readonly<Record<string, string>>;
  readonly server: Bun.Server<unknown> | null;
};

function arrivalOf({ request, params, server }: Arriving): Arrival {
  return {
    request,
    params,
    address: server?.requestIP(request)?.address,
    allowSilence: () => server?.timeout(request, 0),
  };
}

function listen(app: ReturnType<typeof makeApp>, host: string, port: number): void {
  try {
    // Elysia shares ports unless told not to: a second server would take half of the first one's requests.
    app.listen({ hostname: host.replace(/^\[|\]$/g, ""), port, reusePort: false });
  } catch (cause) {
    throw unexpected("io_failed", "server", "a free port", `${host}:${port}`, {
      fix: "Another program listens there, or the address is not this machine's; choose another --port or --host",
      cause,
    });
  }
}
