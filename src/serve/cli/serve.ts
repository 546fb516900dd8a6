import { unexpected } from "../../core/error.ts";
import { version } from "../../core/version.ts";
import { type AnyCommand, command, list, UsageError, wholeNumber, words } from "../../terminal/command.ts";
import { messages, print } from "../../terminal/output.ts";
import { Progress } from "../../terminal/progress.ts";
import { readableBytes } from "../../terminal/table.ts";
import type { ServerOptions } from "../http/options.ts";
import type { RunningServer } from "../http/server.ts";
import type { EngineInfo } from "../protocol.ts";
import { engineArgs, engineOptions } from "./engine_options.ts";

const serveArgs = {
  ...engineArgs,
  host: { type: "string", default: "127.0.0.1", valueHint: "ADDRESS", description: "Address to listen on" },
  port: {
    type: "string",
    default: "8080",
    valueHint: "N",
    description: "Port to listen on; 0 takes a free one",
  },
  parallel: {
    type: "string",
    alias: "np",
    valueHint: "N",
    description: "Requests that run at once; absent: 8",
  },
  "max-queue": {
    type: "string",
    valueHint: "N",
    description: "Requests that may wait; beyond it 503; absent: 512",
  },
  "reasoning-budget": {
    type: "string",
    default: "0",
    valueHint: "N",
    description: "Reasoning effort where a request names none: 0 low, 1 medium, 2 or more high",
  },
  "metal-mode": {
    type: "enum",
    options: list("auto", "native", "proxy"),
    description: "How Metal is used; only with --backend auto or metal",
  },
  "api-key-file": {
    type: "string",
    valueHint: "PATH",
    description: "File with one API key a line; needed to listen beyond this machine",
  },
  "allow-unauthenticated": {
    type: "boolean",
    alias: "insecure-bind",
    description: "Listen beyond this machine without keys",
  },
  "allowed-host": {
    type: "string",
    alias: "allow-host",
    valueHint: "NAMES",
    description: "Further names that a Host header may carry, comma-separated",
  },
  "cors-origin": {
    type: "string",
    valueHint: "ORIGINS",
    description: "Origins whose pages may call, comma-separated; * for all",
  },
  "log-format": {
    type: "enum",
    options: list("text", "json"),
    default: "text",
    description: "Form of the request log",
  },
  webui: { type: "boolean", description: "Accepted for llama.cpp's command lines; there is no web page" },
} as const;

export const serve: AnyCommand = command({
  meta: {
    name: "serve",
    description:
      "Serves a model over HTTP: chat and text completions as OpenAI's API has them, tokens, metrics.",
  },
  args: serveArgs,
  examples: [
    "psionic serve",
    "psionic serve -m gpt-oss-20b-mxfp4.gguf --port 9000 -c 32768",
    "psionic serve -m model.gguf --host 0.0.0.0 --api-key-file keys.txt",
  ],
  async run({ args }) {
    const effort = reasoningEffort(args["reasoning-budget"]);
    if (args["metal-mode"] && args.backend !== "auto" && args.backend !== "metal") {
      throw new UsageError(`--metal-mode goes with --backend auto or metal, got --backend ${args.backend}`);
    }
    if (args["metal-mode"] === "proxy") {
      const fix = "psionic computes itself and starts no llama.cpp server; leave --metal-mode out";
      throw unexpected("unsupported", "metal-mode", "auto or native", "proxy", { fix });
    }
    const slots = wholeNumber(args.parallel, "--parallel", 1, 256);
    const maxQueue = wholeNumber(args["max-queue"], "--max-queue", 1, 1e6);
    const port = wholeNumber(args.port, "--port", 0, 65535)!;
    const { checkBind, readApiKeys } = await import("../http/security.ts");
    const apiKeys = args["api-key-file"] === undefined ? undefined : readApiKeys(args["api-key-file"]);
    checkBind(args.host, apiKeys, args["allow-unauthenticated"] ?? false);
    const options = {
      ...engineOptions(args),
      ...(slots === undefined ? {} : { slots }),
      ...(maxQueue === undefined ? {} : { maxQueue }),
    };
    if (args["metal-mode"] && args["metal-mode"] !== "auto") {
      messages.warn(`--metal-mode ${args["metal-mode"]} has no effect: this build has no Metal backend`);
    }
    if (args.webui) messages.warn("--webui has no effect: this build has no web page");
    const allowedHosts = words(args["allowed-host"]);
    const corsOrigins = words(args["cors-origin"]);
    await listen(options, {
      ...{ host: args.host, port, version },
      logFormat: args["log-format"] === "json" ? "json" : "text",
      log: (line) => process.stderr.write(`${line}\n`),
      onError: (error, id) =>
        messages.error(`request ${id}: ${error instanceof Error ? error.message : error}`),
      allowUnauthenticated: args["allow-unauthenticated"] ?? false,
      ...(apiKeys ? { apiKeys } : {}),
      ...(allowedHosts ? { allowedHosts } : {}),
      ...(corsOrigins ? { corsOrigins } : {}),
      reasoningEffort: effort,
    });
  },
});

function reasoningEffort(budget: string): "low" | "medium" | "high" {
  const n = wholeNumber(budget, "--reasoning-budget", 0, 255)!;
  return (["low", "medium", "high"] as const)[Math.min(n, 2)]!;
}

/** Serves until a signal ends it. Ctrl-C or SIGTERM lets running answers end; a second signal ends them. */
async function listen(engine: Parameters<typeof openModel>[0], options: ServerOptions): Promise<void> {
  const { startServer } = await import("../http/server.ts");
  const progress = new Progress();
  const opened = openModel(engine, progress);
  opened.catch(() => {});
  const server = await startServer(opened, options);
  const ended = onSignals(server, opened);
  const model = await server.ready.finally(() => progress.end());
  const { device, notes } = model.engine.info;
  if (device) messages.info(`Computing on ${device.device}, ${readableBytes(Number(device.memory_bytes))}`);
  for (const note of notes ?? []) messages.info(note);
  await print(readyLine(server.url, model.engine.info));
  await ended;
}

async function openModel(
  options: Parameters<typeof import("../served_model.ts").openServedModel>[0],
  progress: Progress,
) {
  const { openServedModel } = await import("../served_model.ts");
  return openServedModel(options, ({ stage, done, total }) => progress.update(stage, done, total));
}

/** The one line on stdout: where the server is and what computes. */
function readyLine(url: string, { model, backend, contextLength, slots, loadMs }: EngineInfo): string {
  return [
    `psionic serve ${url} model=${model.path}`,
    `backend=${backend.backend} execution_mode=${backend.executionMode} execution_engine=${backend.executionEngine}`,
    `context=${contextLength} slots=${slots} load_ms=${Math.round(loadMs)} digest=${model.digest ?? "pending"}`,
  ].join(" ");
}

type Opened = ReturnType<typeof openModel>;

/** Resolves when the server has ended. */
function onSignals(server: RunningServer, opened: Opened): Promise<void> {
  let loaded: Awaited<Opened> | undefined;
  opened.then(
    (model) => {
      loaded = model;
    },
    () => {},
  );
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let signals = 0;
  const onSignal = (name: "SIGINT" | "SIGTERM") => {
    signals++;
    if (!loaded || signals > 1) process.exit(name === "SIGINT" ? 130 : 143);
    messages.info("Finishing running requests; again to stop at once");
    server
      .stop()
      .then(() => loaded?.engine.close())
      .then(resolve, reject);
  };
  process.on("SIGINT", () => onSignal("SIGINT"));
  process.on("SIGTERM", () => onSignal("SIGTERM"));
  return promise;
}
