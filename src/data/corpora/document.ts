/** Documents of a corpus file: JSON Lines or plain text, either of them compressed with zstd. */
import { createReadStream, statSync } from "node:fs";
import { basename } from "node:path";
import { PsionicError, unexpected } from "../../core/error.ts";
import { zstdDecompressor } from "../../core/zstd.ts";
import { isObject, parseJson } from "../../models/files/strict_json.ts";

export type Document = {
  /** `source/path` of a JSON line, or its `id`, or the file's name with the line. */
  readonly id: string;
  readonly text: string;
  /** Of a JSON line, where it has one. */
  readonly title?: string;
  /** From 1; 1 for a text file, which is one document. */
  readonly line: number;
};

export type CorpusFormat = "jsonl" | "text";

/** A longer line is taken for damage. Bytes. */
const mostLineBytes = 256 * 2 ** 20;

/** `jsonl` or `text` by a file's name; everything else is refused. */
export function formatOf(path: string): CorpusFormat {
  const name = path.toLowerCase().replace(/\.zst$/, "");
  if (/\.(jsonl|ndjson)$/.test(name)) return "jsonl";
  if (/\.(txt|text|md)$/.test(name)) return "text";
  throw unexpected(
    "unsupported",
    path,
    "a corpus named *.jsonl, *.txt or *.md, or one of those with .zst",
    "another name",
  );
}

/** Bytes of a file in pieces, decompressed where its name ends in .zst; `onBytes` hears of what was read from disk. */
async function* contentOf(path: string, onBytes: (count: number) => void): AsyncGenerator<Uint8Array> {
  checkReadable(path);
  const file = createReadStream(path, { highWaterMark: 1 << 20 });
  if (!path.toLowerCase().endsWith(".zst")) {
    for await (const chunk of guarded(file as AsyncIterable<Uint8Array>, path, "readable bytes")) {
      onBytes(chunk.length);
      yield chunk;
    }
    return;
  }
  const plain = zstdDecompressor();
  file.on("error", (error) => plain.destroy(error)).on("data", (chunk) => onBytes(chunk.length));
  yield* guarded(file.pipe(plain) as AsyncIterable<Uint8Array>, path, "whole zstd frames");
}

function checkReadable(path: string): void {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) throw unexpected("file_not_found", path, "a corpus file", "nothing there");
  if (!found.isFile()) throw unexpected("file_not_found", path, "a corpus file", "something that is no file");
}

async function* guarded(
  stream: AsyncIterable<Uint8Array>,
  path: string,
  expected: string,
): AsyncGenerator<Uint8Array> {
  try {
    yield* stream;
  } catch (cause) {
    if (cause instanceof PsionicError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    const fix = "The file is damaged or was cut off; fetch it again";
    throw unexpected("file_malformed", path, expected, reason, { fix, cause });
  }
}

/** Lines without their newline, and the bytes of a last line without one. */
async function* linesOf(path: string, onBytes: (count: number) => void): AsyncGenerator<Uint8Array> {
  let held: Uint8Array[] = [];
  let heldBytes = 0;
  for await (const chunk of contentOf(path, onBytes)) {
    let from = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      held.push(chunk.subarray(from, end));
      yield held.length === 1 ? held[0]! : Buffer.concat(held);
      [held, heldBytes, from] = [[], 0, end + 1];
    }
    // the stream may use its memory again
    held.push(chunk.slice(from));
    heldBytes += chunk.length - from;
    if (heldBytes > mostLineBytes)
      throw unexpected("file_malformed", path, `lines of at most ${mostLineBytes} bytes`, "a longer one");
  }
  if (heldBytes > 0) yield Buffer.concat(held);
}

function decoded(bytes: Uint8Array, where: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes);
  } catch (cause) {
    throw unexpected("file_malformed", where, "UTF-8 text", "bytes that are not UTF-8", { cause });
  }
}

/** Every document of a file, in its order. Errors name the line. */
export async function* readDocuments(
  path: string,
  onBytes: (count: number) => void = () => {},
): AsyncGenerator<Document> {
  if (formatOf(path) === "text") {
    const parts: Uint8Array[] = [];
    let total = 0;
    for await (const part of contentOf(path, onBytes)) {
      parts.push(part.slice());
      total += part.length;
      if (total > mostLineBytes) {
        const fix = "Write its parts as lines of a *.jsonl";
        throw unexpected("unsupported", path, `a text of at most ${mostLineBytes} bytes`, "a longer one", {
          fix,
        });
      }
    }
    const text = decoded(Buffer.concat(parts), path);
    if (text !== "") yield { id: basename(path).replace(/\.zst$/i, ""), text, line: 1 };
    return;
  }
  let line = 0;
  for await (const bytes of linesOf(path, onBytes)) {
    line++;
    const where = `${path}, line ${line}`;
    const text = decoded(bytes, where);
    if (text.trim() !== "") yield documentOf(text, where, path, line);
  }
}

function documentOf(json: string, where: string, path: string, line: number): Document {
  const value = parseJson(json, where);
  if (!isObject(value)) throw unexpected("file_malformed", where, "a JSON object", json.slice(0, 40));
  const { text, source, path: place, id, title } = value;
  if (typeof text !== "string") {
    throw unexpected(
      "file_malformed",
      where,
      "a member text that is a string",
      JSON.stringify(text ?? null).slice(0, 40),
    );
  }
  const named =
    typeof source === "string" && typeof place === "string"
      ? `${source}/${place}`
      : typeof id === "string" || typeof id === "number"
        ? String(id)
        : `${basename(path)}:${line}`;
  const titled = typeof title === "string" && { title: title.toWellFormed() };
  return { id: named, text: text.toWellFormed(), ...titled, line };
}
