import { parseArgs } from "citty";
import { version } from "../../core/version.ts";
import { modelPath } from "../../models/model_option.ts";
import { type AnyCommand, command } from "../../terminal/command.ts";
import { print } from "../../terminal/output.ts";
import { type Setting, settingsText, valuesOf } from "../../terminal/settings.ts";
import { engineSettings } from "./engine_options.ts";
import { serveArgs } from "./serve_args.ts";
import { checkServe } from "./serve_check.ts";
import { flagsOnly, serveSettings } from "./serve_settings.ts";
import type { ServeArgs } from "./serve_values.ts";
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
      await checkServe(args, settings);
      return print(settingsText(settings, serveArgs, flagsOnly));
    }
    const log = serverLog(args["log-format"] === "json" ? "json" : "text");
    const file = settings.find(({ origin }) => origin === "file")?.where;
    if (file !== undefined) log.info(`Settings of ${file} are in force`, { settings_file: file });
    await serveUntilSignal(await servePlan(args, settings, log), log);
  },
});

async function servePlan(args: ServeArgs, settings: readonly Setting[], log: ServerLog): Promise<ServePlan> {
  const { values, apiKeys, allowedHosts, corsOrigins, models, adapters } = await checkServe(args, settings);
  const { effort, slots, maxQueue, port, prefixDisk, idleSeconds } = values;
  tellMetalMode(args, log);
  const folder = args["models-dir"];
  const engine = engineSettings(args);
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
      rehearsalMs: args.rehearse ? 100 : 0,
    },
  };
}

/** What `native` asks for is so in any case. */
function tellMetalMode({ "metal-mode": mode }: ServeArgs, log: ServerLog): void {
  if (mode && mode !== "auto")
    log.warn(`--metal-mode ${mode} says nothing new: Metal, where it computes, is native`);
}
