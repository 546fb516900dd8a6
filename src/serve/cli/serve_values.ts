import { join, resolve } from "node:path";
import type { ParsedArgs } from "citty";
import { cacheFolders } from "../../core/unpack.ts";
import { decimalNumber, UsageError, wholeNumber } from "../../terminal/command.ts";
import type { Setting } from "../../terminal/settings.ts";
import { sizeBytes } from "../../terminal/size.ts";
import type { ServerOptions } from "../http/options.ts";
import type { PrefixDisk } from "../protocol.ts";
import { checkEngineNumbers } from "./engine_options.ts";
import type { serveArgs } from "./serve_args.ts";

/** Options of `serve` as they were written. */
export type ServeArgs = ParsedArgs<typeof serveArgs>;

/** What the options of the server say; a value out of range is wrong usage, in options of the engine, too. */
export function serveValues(args: ServeArgs) {
  checkEngineNumbers(args);
  return {
    effort: reasoningEffort(args["reasoning-budget"]),
    slots: wholeNumber(args.parallel, "--parallel", 1, 256),
    maxQueue: wholeNumber(args["max-queue"], "--max-queue", 1, 1e6),
    port: wholeNumber(args.port, "--port", 0, 65535)!,
    prefixDisk: prefixDiskOf(args),
    idleSeconds: decimalNumber(args["idle-unload"], "--idle-unload", 0.1, 1e7),
  };
}

/** A service of the machine has a cache folder of its own, which systemd names. */
function defaultPrefixFolder(): string {
  const own = process.env.CACHE_DIRECTORY?.split(":")[0];
  return join(own || cacheFolders()[0]!, "prefixes");
}

function prefixDiskOf(args: ServeArgs): PrefixDisk | undefined {
  const limitBytes = sizeBytes(args["prefix-disk"], "--prefix-disk") ?? 0;
  const folder = args["prefix-disk-dir"];
  if (limitBytes > 0) return { limitBytes, folder: resolve(folder ?? defaultPrefixFolder()) };
  if (folder === undefined) return undefined;
  throw new UsageError("--prefix-disk-dir goes with --prefix-disk SIZE, which says how large it may become");
}

/** Keys of the file and the one of the environment or settings file; an address that needs one is refused without. */
export async function serveKeys(
  args: ServeArgs,
  settings: readonly Setting[],
): Promise<ServerOptions["apiKeys"]> {
  const { checkBind, parseApiKeys, readApiKeys } = await import("../http/security.ts");
  const secret = settings.find(({ name }) => name === "api-key");
  const all = [
    ...(args["api-key-file"] === undefined ? [] : readApiKeys(args["api-key-file"])),
    ...(secret ? parseApiKeys(secret.values.join("\n"), secret.where) : []),
  ];
  const apiKeys = all.length > 0 ? all : undefined;
  checkBind(args.host, apiKeys, args["allow-unauthenticated"] ?? false);
  return apiKeys;
}

function reasoningEffort(budget: string): "low" | "medium" | "high" {
  const n = wholeNumber(budget, "--reasoning-budget", 0, 255)!;
  return (["low", "medium", "high"] as const)[Math.min(n, 2)]!;
}
