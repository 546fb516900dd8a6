import { PsionicError, unexpected } from "../../core/error.ts";

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/**
 * Checks text from outside that JSON.parse alone would let through: the same key twice in one object, and nesting
 * deeper than `maxDepth`. Returns the parsed value.
 */
export function parseStrictJson(text: string, where: string, maxDepth: number): Json {
  checkStructure(text, where, maxDepth);
  return parseJson(text, where);
}

/** JSON.parse with a typed error. */
export function parseJson(text: string, where: string): Json {
  try {
    const value: Json = JSON.parse(text);
    return value;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new PsionicError(
      "file_malformed",
      `[${where}] expected valid JSON, got ${reason.slice(0, 160)}`,
      {},
      cause,
    );
  }
}

export function isObject(value: unknown): value is { readonly [key: string]: Json } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** One linear pass over the punctuation; malformed text is left for JSON.parse to report. */
function checkStructure(text: string, where: string, maxDepth: number): void {
  const open: (Set<string> | undefined)[] = [];
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x22) {
      const end = stringEnd(text, i);
      if (end < 0) return;
      const keys = open.at(-1);
      if (keys !== undefined && nextIsColon(text, end)) addKey(keys, text.slice(i, end), where);
      i = end - 1;
    } else if (c === 0x7b || c === 0x5b) {
      open.push(c === 0x7b ? new Set() : undefined);
      if (open.length > maxDepth)
        throw unexpected("file_malformed", where, `JSON nested at most ${maxDepth} deep`, "more");
    } else if (c === 0x7d || c === 0x5d) {
      open.pop();
    }
  }
}

/** Index just past the string that starts at `start`, or -1 when it never ends. */
function stringEnd(text: string, start: number): number {
  for (let i = start + 1; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x5c) i++;
    else if (c === 0x22) return i + 1;
  }
  return -1;
}

function nextIsColon(text: string, from: number): boolean {
  let i = from;
  while (i < text.length && text.charCodeAt(i) <= 0x20) i++;
  return text.charCodeAt(i) === 0x3a;
}

function addKey(keys: Set<string>, quoted: string, where: string): void {
  const key = quoted.includes("\\") ? parseJson(quoted, where) : quoted.slice(1, -1);
  if (typeof key !== "string") return;
  if (keys.has(key)) {
    throw unexpected(
      "file_malformed",
      where,
      "names that occur once",
      `${JSON.stringify(key.slice(0, 80))} twice`,
    );
  }
  keys.add(key);
}
