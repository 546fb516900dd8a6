import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { readSettingsFile, type Settled, settle, valuesOf } from "../../terminal/settings.ts";
import { serveArgs } from "./serve_args.ts";

/** Variables of the environment that set options of `serve` begin with this. */
export const settingsPrefix = "PSIONIC_SERVE";

/** Options that only make sense on a command line. */
export const flagsOnly = ["config", "print-config"];

/** Options that hold a path. */
export const settingsPaths = ["model", "models-dir", "api-key-file", "prefix-disk-dir"];

/** Where the settings file lies when none is named. */
export function defaultSettingsFile(): string {
  return join(process.env.XDG_CONFIG_HOME || join(homedir(), ".config"), "psionic", "serve.toml");
}

/** The settings of a command line with its environment and file. */
export function serveSettings(given: readonly string[]): Settled {
  return settle({
    ...{ args: serveArgs, given, environment: process.env, prefix: settingsPrefix },
    ...{ flagsOnly, secrets: ["api-key"] },
    paths: settingsPaths,
    file: settingsFile(given),
  });
}

function settingsFile(given: readonly string[]): ReturnType<typeof readSettingsFile> | undefined {
  const named = valuesOf(given, "config").at(-1) ?? process.env[`${settingsPrefix}_CONFIG`];
  if (named) return readSettingsFile(named);
  const usual = defaultSettingsFile();
  return existsSync(usual) ? readSettingsFile(usual) : undefined;
}
