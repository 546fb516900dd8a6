import { unexpected } from "../../core/error.ts";
import { UsageError, words } from "../../terminal/command.ts";
import type { Setting } from "../../terminal/settings.ts";
import type { ServerOptions } from "../http/options.ts";
import { refuseExpertOffload } from "./engine_options.ts";
import { type ServeArgs, serveKeys, serveValues } from "./serve_values.ts";
import type { ServePlan } from "./serving.ts";

/** What the settings of `serve` say, before any model or device is looked at. */
export type ServeFacts = Pick<ServerOptions, "apiKeys" | "allowedHosts" | "corsOrigins"> & {
  readonly values: ReturnType<typeof serveValues>;
  readonly models: readonly string[];
  readonly adapters: ServePlan["adapters"];
};

/** Reads the settings; what `serve` could not start with is refused here, for those who only show or install them, too. */
export async function checkServe(args: ServeArgs, settings: readonly Setting[]): Promise<ServeFacts> {
  const values = named(settings, () => serveValues(args));
  checkMetalMode(args);
  refuseExpertOffload(args);
  const apiKeys = await serveKeys(args, settings);
  const { corsRule, hostRule } = await import("../http/security.ts");
  const allowedHosts = words(args["allowed-host"]);
  const corsOrigins = words(args["cors-origin"]);
  hostRule(args.host, allowedHosts ?? []);
  corsRule(corsOrigins ?? []);
  const models = settings.find(({ name }) => name === "model")?.values ?? [];
  const twice = models.find((one, i) => models.indexOf(one) !== i);
  if (twice !== undefined) throw new UsageError(`--model takes every model once, got ${twice} twice`);
  const adapters = adaptersOf(settings.find(({ name }) => name === "adapter")?.values ?? []);
  if (adapters.length > 0 && (models.length > 1 || args["models-dir"] !== undefined))
    throw new UsageError("--adapter goes with one model: one --model at most, no --models-dir");
  return {
    ...{ values, models, adapters },
    ...(apiKeys ? { apiKeys } : {}),
    ...(allowedHosts ? { allowedHosts } : {}),
    ...(corsOrigins ? { corsOrigins } : {}),
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

function checkMetalMode({ "metal-mode": mode, backend }: ServeArgs): void {
  if (mode && !["auto", "metal", "metal-standin"].includes(backend)) {
    throw new UsageError(`--metal-mode goes with --backend auto or metal, got --backend ${backend}`);
  }
  if (mode === "proxy") {
    const fix = "psionic computes itself and starts no llama.cpp server; leave --metal-mode out";
    throw unexpected("unsupported", "metal-mode", "auto or native", "proxy", { fix });
  }
}
