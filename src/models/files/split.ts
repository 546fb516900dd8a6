import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { DType } from "../../core/dtype.ts";
import { unexpected } from "../../core/error.ts";
import { openFile } from "./bytes.ts";
import { type Gguf, parseGguf } from "./gguf.ts";
import { quote, type TensorRecord } from "./tensors.ts";

/** Position of a file in a split model, read from its name: `<stem>-00002-of-00004.gguf`. */
export type SplitName = { readonly stem: string; readonly index: number; readonly count: number };

const splitPattern = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/** The split position that a file name states (index from 0), or undefined for a file that stands alone. */
export function splitName(path: string): SplitName | undefined {
  const match = splitPattern.exec(basename(path));
  if (match === null) return undefined;
  const index = Number(match[2]) - 1;
  const count = Number(match[3]);
  if (index < 0 || index >= count) {
    throw unexpected("file_malformed", path, `a part number from 00001 to ${match[3]}`, match[2]);
  }
  return { stem: match[1] ?? "", index, count };
}

/** Path of part `index` (from 0) beside `path`. */
export function partPath(path: string, name: SplitName, index: number): string {
  const digits = (n: number) => String(n).padStart(5, "0");
  return join(dirname(path), `${name.stem}-${digits(index + 1)}-of-${digits(name.count)}.gguf`);
}

/** Opens a GGUF file, or all parts of a split one when `path` is any of its parts. */
export function openGguf(path: string): Gguf {
  const name = splitName(path);
  if (name === undefined || name.count === 1) {
    const gguf = parseFile(path, 0);
    const count = splitKey(path, gguf, "split.count");
    if (count !== undefined && count > 1) {
      throw unexpected(
        "file_malformed",
        path,
        `a name that ends in -00001-of-${String(count).padStart(5, "0")}.gguf`,
        basename(path),
        {
          fix: "It is one part of a split model; restore the original file names",
        },
      );
    }
    return gguf;
  }
  return joinParts(path, name);
}

function joinParts(path: string, name: SplitName): Gguf {
  const paths = Array.from({ length: name.count }, (_, i) => partPath(path, name, i));
  const missing = paths.filter((p) => !existsSync(p)).map((p) => basename(p));
  if (missing.length > 0) {
    const shown = missing.slice(0, 4).join(", ") + (missing.length > 4 ? " and more" : "");
    throw unexpected(
      "file_not_found",
      path,
      `all ${name.count} parts in one folder`,
      `${missing.length} missing: ${shown}`,
    );
  }
  const parts = paths.map((p, i) => parsePart(p, i, name.count));
  const tensors = new Map<string, TensorRecord<DType>>();
  for (const [i, part] of parts.entries()) {
    for (const record of part.tensors.values()) {
      const other = tensors.get(record.name);
      if (other !== undefined) {
        const places = `${quote(record.name)} in parts ${other.file + 1} and ${i + 1}`;
        throw unexpected("file_malformed", path, "tensor names unique over all parts", places);
      }
      tensors.set(record.name, record);
    }
  }
  const first = parts[0]!;
  const declared = splitKey(first.files[0]!.path, first, "split.tensors.count");
  if (declared !== undefined && declared !== tensors.size) {
    throw unexpected(
      "file_malformed",
      path,
      `${declared} tensors over all parts (split.tensors.count)`,
      tensors.size,
    );
  }
  return { ...first, tensors, files: parts.flatMap((part) => part.files) };
}

function parsePart(path: string, index: number, count: number): Gguf {
  const part = parseFile(path, index);
  const expected: Record<string, number> = { "split.count": count, "split.no": index };
  for (const [key, value] of Object.entries(expected)) {
    const got = splitKey(path, part, key);
    if (got !== value) {
      throw unexpected("file_malformed", path, `${key} = ${value}, as its name says`, got ?? "no such key");
    }
  }
  return part;
}

function parseFile(path: string, file: number): Gguf {
  using source = openFile(path);
  return parseGguf(source, file);
}

function splitKey(path: string, gguf: Gguf, key: string): number | undefined {
  const entry = gguf.metadata.get(key);
  if (entry === undefined) return undefined;
  if (typeof entry.value === "number" && Number.isSafeInteger(entry.value) && entry.value >= 0)
    return entry.value;
  throw unexpected(
    "file_malformed",
    path,
    `a non-negative integer in ${key}`,
    `a value of type ${entry.type}`,
  );
}
