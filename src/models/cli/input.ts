import { readFileSync } from "node:fs";
import { PsionicError, unexpected } from "../../core/error.ts";
import { UsageError } from "../../terminal/command.ts";

/** All of stdin as text; a usage error when a person sits there and nothing was piped. */
export async function readStdin(instead: string): Promise<string> {
  if (process.stdin.isTTY) throw new UsageError(`expected ${instead}, or text on stdin`);
  return utf8(await Bun.stdin.bytes());
}

/** Text of bytes from outside; throws `invalid_argument` rather than guess another encoding or replace bytes. */
function utf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw unexpected("invalid_argument", "stdin", "UTF-8 text", "bytes that are not", { cause });
  }
}

/** Token ids of a text: a JSON array, or numbers between white space and commas. Throws `invalid_argument`. */
export function parseIds(text: string, where: string, vocabularySize: number): number[] {
  const trimmed = text.trim();
  const ids = trimmed.startsWith("[") ? jsonIds(trimmed, where) : trimmed.split(/[\s,]+/).map(Number);
  if (trimmed === "" || ids.length === 0)
    throw unexpected("invalid_argument", where, "at least one token id", "none");
  const wrong = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocabularySize);
  if (wrong >= 0) {
    const expected = `token ids from 0 to ${vocabularySize - 1}`;
    throw unexpected("invalid_argument", where, expected, `${ids[wrong]} at place ${wrong}`);
  }
  return ids;
}

/** A list of ids, or one list inside another (a batch of one). */
function jsonIds(text: string, where: string): number[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw unexpected("invalid_argument", where, "a JSON array of token ids", "text that does not parse", {
      cause,
    });
  }
  if (Array.isArray(value) && value.length === 1 && Array.isArray(value[0])) value = value[0];
  const numbers = Array.isArray(value) ? value : [];
  if (numbers.some((n) => typeof n !== "number")) {
    throw unexpected("invalid_argument", where, "a JSON array of token ids", "an array of other things");
  }
  return numbers as number[];
}

/** Text of a file a command line names. */
export function readText(path: string, option: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new PsionicError(
      "file_not_found",
      `[${option}] expected a readable file, got ${path}`,
      { path },
      cause,
    );
  }
}
