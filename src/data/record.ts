/** JSON records on disk: pretty, whole or absent, and each with a digest of itself. */
import { accessSync, constants, existsSync, mkdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { AsideFile } from "../core/aside.ts";
import { sha256 } from "../core/digest.ts";
import { PsionicError, unexpected } from "../core/error.ts";
import { isObject, parseJson } from "../models/files/strict_json.ts";

/** How a kind of record is named and sealed. */
export type RecordKind = {
  readonly schema: string;
  /** The field that holds the digest, and the text in front of what is digested. */
  readonly digestField: string;
  readonly prefix: string;
};

type Fields = Readonly<Record<string, unknown>>;

function digestOf(kind: RecordKind, fields: Fields): string {
  return sha256(kind.prefix + JSON.stringify({ ...fields, [kind.digestField]: "" }));
}

/** The record with its schema first and its digest last: SHA-256 of prefix and compact JSON with an empty digest. */
export function sealed<T extends Fields>(
  kind: RecordKind,
  fields: T,
): T & { readonly [key: string]: unknown } {
  const open = { schema_version: kind.schema, ...fields, [kind.digestField]: "" };
  return { ...open, [kind.digestField]: digestOf(kind, open) };
}

/** Writes bytes aside and renames; a full disk is `disk_full`, everything else `io_failed`. */
export function writeWhole(path: string, parts: Iterable<Uint8Array>): void {
  try {
    mkdirSync(dirname(path), { recursive: true });
    using file = new AsideFile(path, path);
    for (const part of parts) file.write(part);
    file.keep();
  } catch (cause) {
    throw writeFailure(path, cause);
  }
}

function writeFailure(path: string, cause: unknown): PsionicError {
  const text = cause instanceof Error ? cause.message : String(cause);
  if (/ENOSPC|EDQUOT|EFBIG|no space left/i.test(text)) {
    const fix = "Free space or choose another place; what was there before is as it was";
    return unexpected("disk_full", path, "room for what is written", text, { fix, cause });
  }
  if (cause instanceof PsionicError) return cause;
  return unexpected("io_failed", path, "a file that can be written", text, { cause });
}

/** Writes a record as pretty JSON. */
export function writeRecord(path: string, record: unknown): void {
  writeWhole(path, [new TextEncoder().encode(`${JSON.stringify(record, null, 2)}\n`)]);
}

/** Throws where a file below the path's folder could not be made, before the work that it would hold. Makes nothing. */
export function checkPlace(path: string): void {
  let folder = dirname(resolve(path));
  while (!existsSync(folder)) folder = dirname(folder);
  try {
    if (!statSync(folder).isDirectory()) throw new Error(`${folder} is no folder`);
    accessSync(folder, constants.W_OK);
  } catch (cause) {
    throw writeFailure(path, cause);
  }
}

/** Takes a record away where there is one. */
export function removeRecord(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch (cause) {
    throw writeFailure(path, cause);
  }
}

/** Bytes of a file that must be there. */
export function readBytes(path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (cause) {
    const code = (cause as { readonly code?: unknown }).code;
    const missing = code === "ENOENT" || code === "ENOTDIR";
    const got = missing ? "nothing there" : String(code ?? cause);
    throw unexpected(missing ? "file_not_found" : "io_failed", path, "a readable file", got, { cause });
  }
}

/** Reads a record of a kind; wrong schemas are `file_malformed`, a digest that does not fit is `digest_mismatch`. */
export function readRecord(path: string, kind: RecordKind): Fields {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(readBytes(path));
  } catch (cause) {
    if (cause instanceof PsionicError) throw cause;
    throw unexpected("file_malformed", path, "UTF-8 text", "bytes that are not", { cause });
  }
  const value = parseJson(text, path);
  const schema = isObject(value) ? value.schema_version : undefined;
  if (!isObject(value) || schema !== kind.schema) {
    throw unexpected(
      "file_malformed",
      path,
      `schema_version ${kind.schema}`,
      JSON.stringify(schema) ?? "none",
    );
  }
  const stored = value[kind.digestField];
  if (stored !== digestOf(kind, value)) {
    const fix = "The file was edited or damaged; make it again";
    throw unexpected("digest_mismatch", path, `${kind.digestField} of its content`, String(stored), { fix });
  }
  return value;
}

/** The schema that a JSON file names; undefined for a folder, and for what is no record. */
export function schemaOf(path: string): string | undefined {
  if (!path.endsWith(".json")) return undefined;
  try {
    const value: unknown = JSON.parse(new TextDecoder().decode(readBytes(path)));
    return isObject(value) && typeof value.schema_version === "string" ? value.schema_version : undefined;
  } catch (error) {
    if (error instanceof PsionicError) throw error;
    return undefined;
  }
}
