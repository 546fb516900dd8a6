import { existsSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import type { ArgDef, ArgsDef } from "citty";
import { unexpected } from "../core/error.ts";
import { parseExactJson } from "../core/json_reader.ts";
import { checkedArguments, isRepeatable, suggestion } from "./arguments.ts";
import { UsageError } from "./command.ts";

/** A value of an option and where it comes from. */
export type Setting = {
  readonly name: string;
  /** Several where the option may be repeated. */
  readonly values: readonly string[];
  readonly origin: "flag" | "environment" | "file" | "default";
  /** The flag, the variable or the file. */
  readonly where: string;
  readonly secret: boolean;
};

export type Settled = {
  readonly settings: readonly Setting[];
  /** The options in one spelling, for the reader of arguments; without secrets. */
  readonly rawArgs: string[];
};

export type SettingSources = {
  readonly args: ArgsDef;
  /** Checked arguments: `--name=value`. */
  readonly given: readonly string[];
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** An option `max-queue` is read from PREFIX_MAX_QUEUE. */
  readonly prefix: string;
  /** Values of a file, and the file's path; see `readSettingsFile`. */
  readonly file?: SettingsFile | undefined;
  /** Options that only make sense on a command line. */
  readonly flagsOnly?: readonly string[];
  /** Options that hold a path: in a file they are relative to it, if that is there. */
  readonly paths?: readonly string[];
  /** What may come from the environment or a file, but never from a command line, which others can read. */
  readonly secrets?: readonly string[];
};

export type SettingsFile = { readonly path: string; readonly values: Readonly<Record<string, unknown>> };

/** Merges what was said about each option: flags before the environment before the file before defaults. */
export function settle(sources: SettingSources): Settled {
  const { args, given, secrets = [], flagsOnly = [], file } = sources;
  refuseUnknownVariables(sources);
  const fromFile = fileValues(sources);
  const settings: Setting[] = [];
  for (const [name, def] of Object.entries(args)) {
    if (def.type === "positional") continue;
    const secret = false;
    const flags = valuesOf(given, name);
    if (flags.length > 0) {
      settings.push({ name, values: flags, origin: "flag", where: `--${name}`, secret });
      continue;
    }
    if (flagsOnly.includes(name)) continue;
    const variable = variableName(sources.prefix, name);
    const text = sources.environment[variable];
    if (text !== undefined && text !== "") {
      const values = checked(name, def, isRepeatable(def) ? lines(text) : [text], variable);
      settings.push({ name, values, origin: "environment", where: variable, secret });
    } else if (fromFile.has(name)) {
      const values = checked(name, def, fromFile.get(name)!, file!.path);
      settings.push({ name, values, origin: "file", where: file!.path, secret });
    } else if (def.default !== undefined) {
      settings.push({ name, values: [String(def.default)], origin: "default", where: "default", secret });
    }
  }
  for (const name of secrets) {
    const variable = variableName(sources.prefix, name);
    const text = sources.environment[variable];
    if (text) settings.push({ name, values: [text], origin: "environment", where: variable, secret: true });
    else if (fromFile.has(name)) {
      settings.push({ name, values: fromFile.get(name)!, origin: "file", where: file!.path, secret: true });
    }
  }
  return { settings, rawArgs: rawArguments(settings) };
}

/** A variable that is spelled wrongly would otherwise have no effect, without a word. */
function refuseUnknownVariables({
  args,
  environment,
  prefix,
  secrets = [],
  flagsOnly = [],
}: SettingSources): void {
  const known = [...Object.keys(args), ...secrets].map((name) => variableName(prefix, name));
  const settable = known.filter((name) => !flagsOnly.some((flag) => variableName(prefix, flag) === name));
  for (const [name, value] of Object.entries(environment)) {
    if (!name.startsWith(`${prefix}_`) || known.includes(name) || value === undefined) continue;
    throw new UsageError(`unknown variable ${name}${suggestion(name, settable)}`);
  }
}

/** Values of an option in checked arguments. */
export function valuesOf(given: readonly string[], name: string): string[] {
  const end = given.indexOf("--");
  const start = `--${name}=`;
  return (end < 0 ? given : given.slice(0, end))
    .filter((word) => word.startsWith(start))
    .map((word) => word.slice(start.length));
}

function rawArguments(settings: readonly Setting[]): string[] {
  return settings
    .filter(({ origin, secret }) => origin !== "default" && !secret)
    .flatMap(({ name, values }) => values.map((value) => `--${name}=${value}`));
}

export function variableName(prefix: string, name: string): string {
  return `${prefix}_${name.toUpperCase().replaceAll("-", "_")}`;
}

function lines(text: string): string[] {
  return text
    .split(/[\n,]/)
    .map((part) => part.trim())
    .filter((part) => part !== "");
}

const truths: Readonly<Record<string, string>> = {
  ...{ 1: "true", true: "true", yes: "true", on: "true" },
  ...{ 0: "false", false: "false", no: "false", off: "false" },
};

/** The values, if the option takes them; the error says where they stand. */
function checked(name: string, def: ArgDef, values: readonly string[], where: string): string[] {
  try {
    return values.flatMap((value) => {
      const word = def.type === "boolean" ? (truths[value.toLowerCase()] ?? value) : value;
      return valuesOf(checkedArguments([`--${name}=${word}`], { [name]: def }), name);
    });
  } catch (error) {
    throw new UsageError(`${where}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** What a file says, as texts by option name; names it may not have are wrong usage. */
function fileValues({ file, args, secrets = [], flagsOnly = [], paths = [] }: SettingSources) {
  const values = new Map<string, string[]>();
  if (!file) return values;
  const known = Object.entries(args).flatMap(([name, { type }]) =>
    type === "positional" || flagsOnly.includes(name) ? [] : [name],
  );
  known.push(...secrets);
  for (const [key, value] of Object.entries(file.values)) {
    const name = key.replaceAll("_", "-");
    if (!known.includes(name))
      throw new UsageError(`${file.path}: unknown setting ${key}${suggestion(name, known)}`);
    if (values.has(name)) throw new UsageError(`${file.path}: ${name} is there twice`);
    const list = Array.isArray(value) ? value : [value];
    const wrong = list.find((one) => !["string", "number", "boolean"].includes(typeof one));
    if (wrong !== undefined || list.length === 0) {
      throw new UsageError(`${file.path}: ${key} takes a text, a number, true or false, or a list of texts`);
    }
    const texts = list.map(String).map((text) => (paths.includes(name) ? beside(file.path, text) : text));
    const def = args[name];
    values.set(name, def && !isRepeatable(def) ? [texts.join(",")] : texts);
  }
  return values;
}

function beside(file: string, path: string): string {
  const there = join(dirname(resolve(file)), path);
  return !path.startsWith("/") && existsSync(there) ? there : path;
}

/** Reads a settings file, TOML or JSON by its ending. Throws `file_not_found` and `file_malformed`. */
export function readSettingsFile(path: string): SettingsFile {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw unexpected("file_not_found", "config", "a file that can be read", path, { cause });
  }
  if (!/\.(toml|json)$/i.test(path)) {
    throw unexpected("invalid_argument", "config", "a name that ends in .toml or .json", path);
  }
  const isJson = /\.json$/i.test(path);
  let values: unknown;
  try {
    values = isJson ? JSON.parse(text) : Bun.TOML.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw unexpected("file_malformed", path, "valid settings", reason, { cause });
  }
  // a setting that is there twice, which TOML refuses by itself
  if (isJson) parseExactJson(text, path);
  if (typeof values !== "object" || values === null || Array.isArray(values)) {
    throw unexpected(
      "file_malformed",
      path,
      "an object of settings",
      Array.isArray(values) ? "a list" : "a value",
    );
  }
  return { path, values: values as Record<string, unknown> };
}

/**
 * The settings as a TOML file, each with its origin behind it; secrets masked, options that are not set as comments.
 * `flagsOnly`: options that no file may have.
 */
export function settingsText(
  settings: readonly Setting[],
  args: ArgsDef,
  flagsOnly: readonly string[] = [],
): string {
  const shown = settings.filter(({ name }) => !flagsOnly.includes(name));
  const rows = shown.map((setting) => {
    const { name, values, origin, where, secret } = setting;
    const type = args[name]?.type;
    const texts = values.map((value) =>
      secret ? '"********"' : type === "boolean" ? value : JSON.stringify(value),
    );
    const several = args[name] !== undefined && isRepeatable(args[name]);
    const value = several || texts.length > 1 ? `[${texts.join(", ")}]` : texts[0]!;
    return {
      left: `${name} = ${value}`,
      right: origin === "default" ? "# default" : `# ${origin}: ${where}`,
    };
  });
  const width = Math.max(0, ...rows.map(({ left }) => left.length));
  const lines = rows.map(({ left, right }) => `${left.padEnd(width)}  ${right}`);
  const unset = Object.entries(args).filter(
    ([name, { type }]) =>
      type !== "positional" && !flagsOnly.includes(name) && !shown.some((setting) => setting.name === name),
  );
  return `${[...lines, ...unset.map(([name]) => `# ${name} is not set`)].join("\n")}\n`;
}
