import { join, resolve } from "node:path";
import { type ParsedArgs, parseArgs } from "citty";
import { unexpected } from "../../core/error.ts";
import { cacheFolders } from "../../core/unpack.ts";
import { version } from "../../core/version.ts";
import { modelPath } from "../../models/model_option.ts";
import {
  type AnyCommand,
  command,
  decimalNumber,
  UsageError,
  wholeNumber,
  words,
} from "../../terminal/command.ts";
import { print } from "../../terminal/output.ts";
import { type Setting, settingsText, valuesOf } from "../../terminal/settings.ts";
import { sizeBytes } from "../../terminal/size.ts";
import type { ServerOptions } from "../http/options.ts";
import type { PrefixDisk } from "../protocol.ts";
import { engineSettings } from "./engine_options.ts";
import { serveArgs } from "./serve_args.ts";
import { flagsOnly, serveSettings } from "./serve_settings.ts";
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
    "psionic serve -m model.gguf --host 0.0.0.0 --api-key-file keys.txt",
    "psionic serve --config serve.toml --print-config",
  ],
  async run({ rawArgs }) {
    const { settings, rawArgs: settled } = serveSettings(rawArgs);
    if (valuesOf(rawArgs, "print-config").includes("true"))
      return print(settingsText(settings, serveArgs, flagsOnly));
    const args = parseArgs<typeof serveArgs>(settled, serveArgs);
    const log = serverLog(args["log-format"] === "json" ? "json" : "text");
    const file = settings.find(({ origin }) => origin === "file")?.where;
    if (file !== undefined) log.info(`Settings of ${file} are in force`, { settings_file: file });
    await serveUntilSignal(await servePlan(args, settings, log), log);
  },
});

type Args = ParsedArgs<typeof serveArgs>;

async function servePlan(args: Args, settings: readonly Setting[], log: ServerLog): Promise<ServePlan> {
  const effort = reasoningEffort(args["reasoning-budget"]);
  checkMetal(args, log);
  const slots = wholeNumber(args.parallel, "--parallel", 1, 256);
  const maxQueue = wholeNumber(args["max-queue"], "--max-queue", 1, 1e6);
  const port = wholeNumber(args.port, "--port", 0, 65535)!;
  const prefixDisk = prefixDiskOf(args);
  const idleSeconds = decimalNumber(args["idle-unload"], "--idle-unload", 0.1, 1e7);
  const apiKeys = await keys(args, settings);
  const { checkBind } = await import("../http/security.ts");
  checkBind(args.host, apiKeys, args["allow-unauthenticated"] ?? false);
  const allowedHosts = words(args["allowed-host"]);
  const corsOrigins = words(args["cors-origin"]);
  const named = settings.find(({ name }) => name === "model")?.values ?? [];
  const folder = args["models-dir"];
  return {
    models: (named.length > 0 || folder !== undefined ? named : [undefined]).map((asked) => ({
      path: modelPath(asked),
      alias: asked ?? "",
    })),
    ...(folder === undefined ? {} : { folder }),
    ...(idleSeconds === undefined ? {} : { idleUnloadMs: idleSeconds * 1000 }),
    engine: {
      ...engineSettings(args),
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

/** A service of the machine has a cache folder of its own, which systemd names. */
function defaultPrefixFolder(): string {
  const own = process.env.CACHE_DIRECTORY?.split(":")[0];
  return join(own || cacheFolders()[0]!, "prefixes");
}

function prefixDiskOf(args: Args): PrefixDisk | undefined {
  const limitBytes = sizeBytes(args["prefix-disk"], "--prefix-disk") ?? 0;
  const folder = args["prefix-disk-dir"];
  if (limitBytes > 0) return { limitBytes, folder: resolve(folder ?? defaultPrefixFolder()) };
  if (folder === undefined) return undefined;
  throw new UsageError("--prefix-disk-dir goes with --prefix-disk SIZE, which says how large it may become");
}

/** Keys of the file and the one of the environment or settings file. */
async function keys(args: Args, settings: readonly Setting[]): Promise<ServerOptions["apiKeys"]> {
  const { parseApiKeys, readApiKeys } = await import("../http/security.ts");
  const secret = settings.find(({ name }) => name === "api-key");
  const all = [
    ...(args["api-key-file"] === undefined ? [] : readApiKeys(args["api-key-file"])),
    ...(secret ? parseApiKeys(secret.values.join("\n"), secret.where) : []),
  ];
  return all.length > 0 ? all : undefined;
}

function checkMetal(args: Args, log: ServerLog): void {
  const mode = args["metal-mode"];
  if (mode && args.backend !== "auto" && args.backend !== "metal") {
    throw new UsageError(`--metal-mode goes with --backend auto or metal, got --backend ${args.backend}`);
  }
  if (mode === "proxy") {
    const fix = "psionic computes itself and starts no llama.cpp server; leave --metal-mode out";
    throw unexpected("unsupported", "metal-mode", "auto or native", "proxy", { fix });
  }
  if (mode && mode !== "auto")
    log.warn(`--metal-mode ${mode} has no effect: this build has no Metal backend`);
}

function reasoningEffort(budget: string): "low" | "medium" | "high" {
  const n = wholeNumber(budget, "--reasoning-budget", 0, 255)!;
  return (["low", "medium", "high"] as const)[Math.min(n, 2)]!;
}
