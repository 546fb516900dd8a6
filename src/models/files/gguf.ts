import { type DType, declinedTypeNames, dtypeFromId, dtypes, fileTypes } from "../../core/dtype.ts";
import { unexpected } from "../../core/error.ts";
import type { ByteSource } from "./bytes.ts";
import { HeaderCursor } from "./gguf_cursor.ts";
import { type GgufValue, readString, readValue } from "./gguf_values.ts";
import { describeMagic } from "./magic.ts";
import { checkRanges, type ModelFile, quote, type TensorRecord } from "./tensors.ts";

/** The checked contents of a GGUF header (or of all parts of a split file): metadata, and where each tensor lies. */
export type Gguf = {
  readonly version: number;
  readonly alignment: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, TensorRecord<DType>>;
  readonly files: readonly ModelFile[];
};

const MAX_METADATA_RECORDS = 1 << 16;
const MAX_TENSORS = 1 << 20;
const MAX_KEY_BYTES = 65535;
const MAX_NAME_BYTES = 255;
const MAX_DIMENSIONS = 4;
const MAX_ALIGNMENT = 1 << 24;
const DEFAULT_ALIGNMENT = 32;
/** The shortest records the format allows: what a count must at least occupy. */
const MIN_METADATA_RECORD = 8 + 1 + 4 + 1;
const MIN_TENSOR_RECORD = 8 + 1 + 4 + 4 + 8;

/** Reads and checks the header of one GGUF file, version 2 or 3; `file` is the index its tensor records carry. */
export function parseGguf(source: ByteSource, file = 0): Gguf {
  const cursor = new HeaderCursor(source);
  const version = readVersion(cursor);
  const tensorCount = readCount(cursor, "tensor count", MAX_TENSORS, MIN_TENSOR_RECORD);
  const recordCount = readCount(cursor, "metadata count", MAX_METADATA_RECORDS, MIN_METADATA_RECORD);
  const metadata = readMetadata(cursor, recordCount);
  const alignment = readAlignment(source.path, metadata);
  const infos = readTensorInfos(cursor, tensorCount, alignment);
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  const tensors = new Map<string, TensorRecord<DType>>();
  for (const info of infos) {
    const offset = dataStart + info.offset;
    if (!Number.isSafeInteger(offset + info.bytes)) {
      throw unexpected(
        "file_malformed",
        source.path,
        `${quote(info.name)} inside the file`,
        `offset ${info.offset}`,
      );
    }
    tensors.set(info.name, { ...info, file, offset });
  }
  checkRanges(source.path, source.size, [...tensors.values()]);
  return { version, alignment, metadata, tensors, files: [{ path: source.path, bytes: source.size }] };
}

function readVersion(cursor: HeaderCursor): number {
  const head = cursor.bytes.subarray(0, 64);
  if (head.byteLength === 0) throw unexpected("file_malformed", cursor.path, "a GGUF file", "an empty file");
  const looksLike = describeMagic(head);
  if (looksLike !== "a GGUF file") {
    const shown = [...head.subarray(0, 4)].map((b) => b.toString(16).padStart(2, "0")).join(" ");
    const got = looksLike ?? `a file that begins with the bytes ${shown}`;
    throw unexpected("file_malformed", cursor.path, 'a GGUF file (it begins with "GGUF")', got);
  }
  cursor.take(4, "the magic");
  const version = cursor.u32("the version");
  if ((version & 0xffff) === 0 && version !== 0) {
    throw unexpected("unsupported", cursor.path, "a little-endian GGUF file", "a big-endian one", {
      fix: "Convert it with llama.cpp's gguf_convert_endian.py",
    });
  }
  if (version !== 2 && version !== 3) {
    throw unexpected("unsupported", cursor.path, "GGUF version 2 or 3", `version ${version}`);
  }
  return version;
}

function readCount(cursor: HeaderCursor, what: string, limit: number, minimumBytes: number): number {
  const count = cursor.size(`the ${what}`);
  if (count <= limit && count * minimumBytes <= cursor.remaining) return count;
  throw unexpected(
    "file_malformed",
    cursor.path,
    `a ${what} of at most ${limit} that fits in the remaining ${cursor.remaining} bytes`,
    count,
  );
}

function readMetadata(cursor: HeaderCursor, count: number): Map<string, GgufValue> {
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    const key = readString(cursor, `metadata key ${i}`, MAX_KEY_BYTES);
    if (key === "")
      throw unexpected("file_malformed", cursor.path, `a name for metadata key ${i}`, "an empty string");
    if (metadata.has(key)) {
      throw unexpected("file_malformed", cursor.path, "metadata keys that occur once", `${quote(key)} twice`);
    }
    const shown = quote(key);
    metadata.set(key, readValue(cursor, cursor.u32(`the type of ${shown}`), shown));
  }
  return metadata;
}

function readAlignment(path: string, metadata: ReadonlyMap<string, GgufValue>): number {
  const entry = metadata.get("general.alignment");
  if (entry === undefined) return DEFAULT_ALIGNMENT;
  const value = entry.value;
  const isPower =
    typeof value === "number" && value >= 1 && value <= MAX_ALIGNMENT && Number.isInteger(Math.log2(value));
  if (isPower) return value;
  throw unexpected(
    "file_malformed",
    path,
    `general.alignment to be a power of two up to ${MAX_ALIGNMENT}`,
    typeof value === "object" ? `a ${entry.type}` : String(value).slice(0, 40),
  );
}

type TensorInfo = Omit<TensorRecord<DType>, "file">;

function readTensorInfos(cursor: HeaderCursor, count: number, alignment: number): TensorInfo[] {
  const infos: TensorInfo[] = [];
  const names = new Set<string>();
  for (let i = 0; i < count; i++) {
    const name = readString(cursor, `the name of tensor ${i}`, MAX_NAME_BYTES);
    if (name === "")
      throw unexpected("file_malformed", cursor.path, `a name for tensor ${i}`, "an empty string");
    if (names.has(name)) {
      throw unexpected("file_malformed", cursor.path, "tensor names that occur once", `${quote(name)} twice`);
    }
    names.add(name);
    infos.push(readTensorInfo(cursor, name, alignment));
  }
  return infos;
}

function readTensorInfo(cursor: HeaderCursor, name: string, alignment: number): TensorInfo {
  const shown = quote(name);
  const dimensions = cursor.u32(`the dimension count of ${shown}`);
  if (dimensions > MAX_DIMENSIONS) {
    throw unexpected(
      "file_malformed",
      cursor.path,
      `at most ${MAX_DIMENSIONS} dimensions for ${shown}`,
      dimensions,
    );
  }
  const fastestFirst: number[] = [];
  let elements = 1;
  for (let d = 0; d < dimensions; d++) {
    const size = cursor.size(`dimension ${d} of ${shown}`);
    elements *= size;
    if (size === 0 || !Number.isSafeInteger(elements)) {
      throw unexpected(
        "file_malformed",
        cursor.path,
        `${shown} to have positive dimensions with a product below 2^53`,
        `[${[...fastestFirst, size].join(", ")}${d + 1 < dimensions ? ", ..." : ""}]`,
      );
    }
    fastestFirst.push(size);
  }
  const dtype = tensorType(cursor.path, cursor.u32(`the type of ${shown}`), shown);
  const bytes = tensorBytes(cursor.path, shown, dtype, fastestFirst[0] ?? 1, elements);
  const offset = cursor.size(`the offset of ${shown}`);
  if (offset % alignment !== 0) {
    throw unexpected(
      "file_malformed",
      cursor.path,
      `${shown} at a multiple of ${alignment}`,
      `offset ${offset}`,
    );
  }
  return { name, dtype, shape: fastestFirst.reverse(), offset, bytes };
}

function tensorType(path: string, id: number, shown: string): DType {
  const dtype = dtypeFromId(id);
  if (dtype !== undefined) return dtype;
  const declined = declinedTypeNames.get(id);
  const supported = fileTypes.join(", ").toUpperCase();
  if (declined !== undefined) {
    throw unexpected("unsupported", path, `${shown} in a supported type (${supported})`, declined, {
      details: { tensor: shown, type: declined },
    });
  }
  throw unexpected(
    "file_malformed",
    path,
    `${shown} to have a known type id`,
    `id ${id} (unknown or retired)`,
  );
}

function tensorBytes(
  path: string,
  shown: string,
  dtype: DType,
  rowElements: number,
  elements: number,
): number {
  const { blockElements, blockBytes } = dtypes[dtype];
  if (rowElements % blockElements !== 0) {
    throw unexpected(
      "file_malformed",
      path,
      `rows of ${shown} to be a multiple of ${blockElements} (${dtype.toUpperCase()})`,
      `${rowElements} elements`,
    );
  }
  const bytes = (elements / blockElements) * blockBytes;
  if (!Number.isSafeInteger(bytes)) {
    throw unexpected("file_malformed", path, `${shown} of fewer than 2^53 bytes`, `${elements} elements`);
  }
  return bytes;
}
