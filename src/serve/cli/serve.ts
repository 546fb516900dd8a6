import { parseArgs } from "citty";
import { unexpected } from "../../core/error.ts";
import { version } from "../../core/version.ts";
import { modelPath } from "../../models/model_option.ts";
import { type AnyCommand, command, UsageError, words } from "../../terminal/command.ts";
import { print } from "../../terminal/output.ts";
import { type Setting, settingsText, valuesOf } from "../../terminal/settings.ts";
import { engineSettings } from "./engine_options.ts";
import { serveArgs } from "./serve_args.ts";
import { flagsOnly, serveSettings } from "./serve_settings.ts";
import { type ServeArgs, serveKeys, serveValues } from "./serve_values.ts";
import { type ServerLog, serverLog } from "./server_log.ts";
import { type ServePlan, serveUntilSignal } from "./serving.ts";

export const serve: AnyCommand = command({
  meta: {
    name: "serve",
    description:
      "Serves models over HTTP: chat and text completions as OpenAI's API has them, tokens, metrics.",
  },
  args: serveArgs,
  examples: [
    "psionic serve",
    "psionic serve -m gpt-oss-20b-mxfp4.gguf --port 9000 -c 32768",
    "psionic serve -m a.gguf -m b.gguf -c 8192 --idle-unload 600",
    "psionic serve --models-dir ~/models",
    "psionic serve --adapter style=run/evidence/adapter",
    "psionic serve -m model.gguf --host 0.0.0.0 --api-key-file keys.txt",
    "psionic serve --config serve.toml --print-config",
  ],
  async run({ rawArgs }) {
    const { settings, rawArgs: settled } = serveSettings(rawArgs);
    const args = parseArgs<typeof serveArgs>(settled, serveArgs);
    if (valuesOf(rawArgs, "print-config").includes("true")) {
      named(settings, () => serveValues(args));
      return print(settingsText(settings, serveArgs, flagsOnly));
    }
    const log = serverLog(args["log-format"] === "json" ? "json" : "text");
    const file = settings.find(({ origin }) => origin === "file")?.where;
    if (file !== undefined) log.info(`Settings of ${file} are in force`, { settings_file: file });
    await serveUntilSignal(await servePlan(args, settings, log), log);
  },
});

async function servePlan(args: ServeArgs, settings: readonly Setting[], log: ServerLog): Promise<ServePlan> {
  const { effort, slots, maxQueue, port, prefixDisk, idleSeconds } = named(settings, () => serveValues(args));
  checkMetal(args, log);
  const apiKeys = await serveKeys(args, settings);
  const allowedHosts = words(args["allowed-host"]);
  const corsOrigins = words(args["cors-origin"]);
  const models = settings.find(({ name }) => name === "model")?.values ?? [];
  const twice = models.find((one, i) => models.indexOf(one) !== i);
  if (twice !== undefined) throw new UsageError(`--model takes every model once, got ${twice} twice`);
  const folder = args["models-dir"];
  const adapters = adaptersOf(settings.find(({ name }) => name === "adapter")?.values ?? []);
  if (adapters.length > 0 && (models.length > 1 || folder !== undefined))
    throw new UsageError("--adapter goes with one model: one --model at most, no --models-dir");
  const engine = engineSettings(args);
  if (adapters.length > 0 && engine.backend !== "cpu")
    throw unexpected("unsupported", "--adapter", "--backend cpu", engine.backend);
  return {
    models: (models.length > 0 || folder !== undefined ? models : [undefined]).map((asked) => ({
      path: modelPath(asked),
      alias: asked ?? "",
    })),
    adapters,
    ...(folder === undefined ? {} : { folder }),
    ...(idleSeconds === undefined ? {} : { idleUnloadMs: idleSeconds * 1000 }),
    engine: {
      ...engine,
      ...(slots === undefined ? {} : { slots }),
      ...(maxQueue === undefined ? {} : { maxQueue }),
      ...(prefixDisk ? { prefixDisk } : {}),
    },
    server: {
      ...{ host: args.host, port, version },
      logFormat: log.json ? "json" : "text",
      log: log.line,
      onError: (error, id) =>
        log.error(`request ${id}: ${error instanceof Error ? error.message : error}`, { request_id: id }),
      allowUnauthenticated: args["allow-unauthenticated"] ?? false,
      ...(apiKeys ? { apiKeys } : {}),
      ...(allowedHosts ? { allowedHosts } : {}),
      ...(corsOrigins ? { corsOrigins } : {}),
      reasoningEffort: effort,
      page: args.webui,
    },
  };
}

/** `NAME=PATH`, each name once; what a name is made of keeps it apart from the model's. */
function adaptersOf(given: readonly string[]): ServePlan["adapters"] {
  const adapters = given.map((text) => {
    const [, name = "", path = ""] = /^([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)$/s.exec(text) ?? [];
    if (name === "") throw new UsageError(`--adapter takes NAME=PATH, got ${text}`);
    return { name, path };
  });
  const twice = adapters.find(({ name }, i) => adapters.findIndex((one) => one.name === name) !== i);
  if (twice) throw new UsageError(`--adapter takes every name once, got ${twice.name} twice`);
  return adapters;
}

/** Wrong usage, with the variable or file that an option's value comes from. */
function named<T>(settings: readonly Setting[], read: () => T): T {
  try {
    return read();
  } catch (error) {
    const option = error instanceof UsageError ? /^--([a-z-]+) /.exec(error.message)?.[1] : undefined;
    const from = settings.find(({ name }) => name === option);
    if (from?.origin !== "environment" && from?.origin !== "file") throw error;
    throw new UsageError(`${from.where}: ${(error as Error).message}`);
  }
}

function checkMetal(args: ServeArgs, log: ServerLog): void {
  const mode = args["metal-mode"];
  if (mode && !["auto", "metal", "metal-standin"].includes(args.backend)) {
    throw new UsageError(`--metal-mode goes with --backend auto or metal, got --backend ${args.backend}`);
  }
  if (mode === "proxy") {
    const fix = "psionic computes itself and starts no llama.cpp server; leave --metal-mode out";
    throw unexpected("unsupported", "metal-mode", "auto or native", "proxy", { fix });
  }
  if (mode && mode !== "auto")
    log.warn(`--metal-mode ${mode} says nothing new: Metal, where it computes, is native`);
}
