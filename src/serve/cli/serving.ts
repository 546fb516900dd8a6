import { unexpected } from "../../core/error.ts";
import { kernelsOf } from "../../ir/op.ts";
import { print } from "../../terminal/output.ts";
import { Progress } from "../../terminal/progress.ts";
import { readableBytes } from "../../terminal/table.ts";
import type { LoadProgress } from "../engine/index.ts";
import type { ServerOptions } from "../http/options.ts";
import type { RunningServer } from "../http/server.ts";
import type { SharedOptions } from "../models/open.ts";
import type { ModelSet, ModelSetEvent } from "../models/set.ts";
import type { ModelSource } from "../models/source.ts";
import type { EngineInfo } from "../protocol.ts";
import { register } from "../running.ts";
import type { ServerLog } from "./server_log.ts";

/** What a command line of `serve` comes to. */
export type ServePlan = {
  /** Named one by one; the first is the default and is loaded at once. */
  readonly models: readonly { readonly path: string; readonly alias: string }[];
  /** Of the only model, each a further one to ask for. */
  readonly adapters: readonly { readonly name: string; readonly path: string }[];
  /** Every model in it, too. */
  readonly folder?: string;
  readonly idleUnloadMs?: number;
  readonly engine: SharedOptions;
  readonly server: ServerOptions;
};

/** Serves until a signal ends it. Ctrl-C or SIGTERM lets running answers end; a second signal ends them. */
export async function serveUntilSignal(plan: ServePlan, log: ServerLog): Promise<void> {
  const { startServer } = await import("../http/server.ts");
  const progress = log.json ? undefined : new Progress();
  const models = await modelSet(plan, log, progress);
  models.ready.catch(() => {});
  const server = await startServer(models, plan.server);
  let begun = false;
  const ended = onSignals(server, models, log, () => begun);
  const first = await models.ready.finally(() => progress?.end());
  begun = true;
  if (first) tellModel(first.engine.info, log);
  const unregister = register(
    {
      url: server.url,
      version: plan.server.version ?? "",
      models: models.rows.map(({ header, name }) => header?.path ?? name),
      keyed: plan.server.apiKeys !== undefined,
    },
    (error) =>
      log.warn(`psionic ps will not show this server: ${error instanceof Error ? error.message : error}`),
  );
  process.on("exit", unregister);
  models.listen((event) => tellChange(event, log));
  await print(readyLine(server.url, models, first?.engine.info, plan.engine));
  await ended;
  unregister();
}

async function modelSet(plan: ServePlan, log: ServerLog, progress: Progress | undefined): Promise<ModelSet> {
  const { distinctSources, fileSource, folderSources, onlySource } = await import("../models/open.ts");
  const { ModelSet } = await import("../models/set.ts");
  const report = ({ stage, done, total }: LoadProgress): void => progress?.update(stage, done, total);
  const told = { onProgress: report, onWarning: (message: string): void => log.warn(message) };
  const { idleUnloadMs, engine, folder, models, adapters } = plan;
  const options = idleUnloadMs === undefined ? {} : { idleUnloadMs };
  const [only] = models;
  if (only && models.length === 1 && folder === undefined && adapters.length === 0) {
    const source = onlySource(only.path, engine, { aliases: [only.alias], ...told });
    return new ModelSet([source], { ...options, preload: source, revive: false });
  }
  const named = models.flatMap(({ path, alias }) =>
    [undefined, ...adapters].map((adapter) =>
      fileSource(path, engine, { aliases: [alias], ...told, ...(adapter && { adapter }) }),
    ),
  );
  const found = folder === undefined ? undefined : folderSources(folder, engine, told);
  for (const { path, reason } of found?.skipped ?? []) log.warn(`${path} is left out: ${reason}`, { path });
  const sources: readonly ModelSource[] = distinctSources([...named, ...(found?.sources ?? [])]);
  if (sources.length === 0) {
    throw unexpected("file_not_found", "models-dir", "a folder with models that can be served", folder);
  }
  return new ModelSet(sources, { ...options, ...(named[0] ? { preload: named[0] } : {}) });
}

function tellModel({ device, notes }: EngineInfo, log: ServerLog): void {
  if (device) log.info(`Computing on ${device.device}, ${readableBytes(Number(device.memory_bytes))}`);
  for (const note of notes ?? []) log.info(note);
}

/** Says what is loaded and unloaded after the start. */
function tellChange(event: ModelSetEvent, log: ServerLog): void {
  const model = event.name;
  switch (event.type) {
    case "loading":
      log.info(`Loading ${model}`, { model, event: "model_loading" });
      break;
    case "loaded": {
      const { memory, contextLength, notes } = event.served.engine.info;
      const took = `${Math.round(event.loadMs)} ms`;
      const facts = { model, event: "model_loaded", load_ms: Math.round(event.loadMs) };
      log.info(`Loaded ${model} in ${took}: ${readableBytes(memory.totalBytes)}, context ${contextLength}`, {
        ...{ ...facts, memory_bytes: memory.totalBytes, context: contextLength },
      });
      for (const note of notes ?? []) log.info(`${model}: ${note}`, { model });
      break;
    }
    case "unloaded":
      log.info(`Unloaded ${model} (${event.reason})`, {
        model,
        event: "model_unloaded",
        reason: event.reason,
      });
      break;
    case "failed": {
      const reason = event.error instanceof Error ? event.error.message : String(event.error);
      log.warn(`${model} could not be loaded: ${reason}`, { model, event: "model_load_failed" });
      break;
    }
  }
}

/** The one line on stdout: where the server is and what computes. */
function readyLine(
  url: string,
  models: ModelSet,
  first: EngineInfo | undefined,
  { backend }: SharedOptions,
): string {
  const count = models.rows.length;
  if (!first) return `psionic serve ${url} models=${count} loaded=0 backend=${backend}`;
  const { model, backend: truth, contextLength, slots, loadMs } = first;
  return [
    `psionic serve ${url} model=${model.path}`,
    `backend=${truth.backend} execution_mode=${truth.executionMode} execution_engine=${truth.executionEngine}`,
    `context=${contextLength} slots=${slots} load_ms=${Math.round(loadMs)} digest=${model.digest ?? "pending"}`,
    // whatever -ngl asked for: a Mac has one memory
    ...(kernelsOf(truth.backend) === "metal" ? ["gpu_layers=all"] : []),
    ...(count > 1 ? [`models=${count}`] : []),
  ].join(" ");
}

/** Resolves when the server has ended. `begun`: before that there is nothing to finish. */
function onSignals(
  server: RunningServer,
  models: ModelSet,
  log: ServerLog,
  begun: () => boolean,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let signals = 0;
  const onSignal = (name: "SIGINT" | "SIGTERM") => {
    signals++;
    if (!begun() || signals > 1) process.exit(name === "SIGINT" ? 130 : 143);
    log.info("Finishing running requests; again to stop at once");
    server
      .stop()
      .then(() => models.close())
      .then(resolve, reject);
  };
  process.on("SIGINT", () => onSignal("SIGINT"));
  process.on("SIGTERM", () => onSignal("SIGTERM"));
  return promise;
}
