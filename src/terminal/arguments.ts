import type { ArgDef, ArgsDef } from "citty";
import { UsageError } from "./command.ts";

type Option = { readonly name: string; readonly def: Exclude<ArgDef, { type: "positional" }> };

/**
 * Checks a command line against a command's arguments and returns it in one spelling: `--name=value`, then `--` and the
 * positional ones. Names of several letters may have one dash, as llama.cpp's do. Throws `UsageError`, with a suggestion
 * for an unknown option.
 */
export function checkedArguments(raw: readonly string[], args: ArgsDef): string[] {
  const known = optionNames(args);
  const seen = new Set<string>();
  const options: string[] = [];
  const positional: string[] = [];
  for (let i = 0; i < raw.length; i++) {
    const word = raw[i]!;
    if (word === "--") {
      positional.push(...raw.slice(i + 1));
      break;
    }
    if (word === "-" || !word.startsWith("-")) {
      positional.push(word);
      continue;
    }
    const { spelled, attached } = splitOption(word);
    const { option, negated } = findOption(spelled, known);
    if (seen.has(option.name) && !isRepeatable(option.def)) throw new UsageError(`${spelled} is given twice`);
    seen.add(option.name);
    if (option.def.type === "boolean") {
      options.push(`--${option.name}=${booleanValue(spelled, attached, negated)}`);
      continue;
    }
    const value = attached ?? raw[++i];
    if (value === undefined || (attached === undefined && isOption(value, known))) {
      throw new UsageError(`${spelled} expects a value`);
    }
    options.push(`--${option.name}=${checkedValue(spelled, value, option.def)}`);
  }
  checkPositional(positional, args);
  return [...options, ...(positional.length > 0 ? ["--", ...positional] : [])];
}

/** Whether an option may be given several times; the definition says so in a member of its own. */
export function isRepeatable(def: ArgDef): boolean {
  return "repeatable" in def && def.repeatable === true;
}

/** Every spelling of every option: `--name`, `-a` and `--alias`. */
function optionNames(args: ArgsDef): ReadonlyMap<string, Option> {
  const known = new Map<string, Option>();
  for (const [name, def] of Object.entries(args)) {
    if (def.type === "positional") continue;
    const option = { name, def: def as Option["def"] };
    for (const spelling of [name, ...aliasesOf(def)]) {
      known.set(`--${spelling}`, option);
      known.set(`-${spelling}`, option);
    }
  }
  return known;
}

export function aliasesOf(def: ArgDef): readonly string[] {
  const alias = "alias" in def ? def.alias : undefined;
  return alias === undefined ? [] : Array.isArray(alias) ? alias : [alias];
}

function splitOption(word: string): { readonly spelled: string; readonly attached: string | undefined } {
  const at = word.indexOf("=");
  return at < 0
    ? { spelled: word, attached: undefined }
    : { spelled: word.slice(0, at), attached: word.slice(at + 1) };
}

function findOption(
  spelled: string,
  known: ReadonlyMap<string, Option>,
): { readonly option: Option; readonly negated: boolean } {
  const option = known.get(spelled);
  if (option) return { option, negated: false };
  const positive = spelled.startsWith("--no-") ? known.get(`--${spelled.slice(5)}`) : undefined;
  if (positive?.def.type === "boolean") return { option: positive, negated: true };
  const full = [...known.keys()].filter((k) => k.startsWith("--") && k.length > 3);
  throw new UsageError(`unknown option ${spelled}${suggestion(spelled, full)}`);
}

function booleanValue(spelled: string, attached: string | undefined, negated: boolean): boolean {
  if (attached === undefined) return !negated;
  if (!negated && (attached === "true" || attached === "false")) return attached === "true";
  throw new UsageError(`${spelled} takes no value, got ${attached}`);
}

/** Numbers such as -1 are values; anything that names an option is not. */
function isOption(value: string, known: ReadonlyMap<string, Option>): boolean {
  return value.startsWith("-") && known.has(splitOption(value).spelled);
}

function checkedValue(spelled: string, value: string, def: Option["def"]): string {
  const allowed = def.type === "enum" ? (def.options ?? []) : [];
  if (allowed.length === 0 || allowed.includes(value)) return value;
  throw new UsageError(
    `${spelled} takes one of ${allowed.join(", ")}, got ${value || "nothing"}${suggestion(value, allowed)}`,
  );
}

function checkPositional(positional: readonly string[], args: ArgsDef): void {
  const places = Object.values(args).filter((def) => def.type === "positional");
  if (positional.length > places.length) {
    throw new UsageError(`unexpected argument ${JSON.stringify(positional[places.length])}`);
  }
  const required = Object.entries(args).filter(([, d]) => d.type === "positional" && d.required !== false);
  const missing = required[positional.length];
  if (positional.length < required.length && missing)
    throw new UsageError(`missing ${missing[0].toUpperCase()}`);
  for (const [name, def] of Object.entries(args)) {
    if (def.type === "enum" && def.required && def.options?.length === 0)
      throw new UsageError(`missing --${name}`);
  }
}

/** `; did you mean X?` for a word that is close to a known one. */
export function suggestion(word: string, known: readonly string[]): string {
  const bare = word.replace(/^-+/, "");
  const ranked = known
    .map((k) => ({ k, distance: editDistance(bare, k.replace(/^-+/, "")) }))
    .sort((a, b) => a.distance - b.distance);
  const best = ranked[0];
  return best && best.distance <= Math.max(1, Math.ceil(bare.length / 3)) ? `; did you mean ${best.k}?` : "";
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(swap, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
