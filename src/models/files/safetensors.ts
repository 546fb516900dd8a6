import { unexpected } from "../../core/error.ts";
import type { ByteSource } from "./bytes.ts";
import { describeMagic } from "./magic.ts";
import { isObject, type Json, parseStrictJson } from "./strict_json.ts";
import { checkRanges, quote, type StoredType, type TensorRecord } from "./tensors.ts";

/** Largest header the format's reference reader takes. */
const MAX_HEADER_BYTES = 100_000_000;
const MAX_DIMENSIONS = 8;
/** A header is an object of objects of lists; `__metadata__` is no deeper. */
const MAX_DEPTH = 4;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const types: Readonly<Record<string, { dtype: StoredType; bytes: number }>> = {
  F64: { dtype: "f64", bytes: 8 },
  F32: { dtype: "f32", bytes: 4 },
  F16: { dtype: "f16", bytes: 2 },
  BF16: { dtype: "bf16", bytes: 2 },
  I64: { dtype: "i64", bytes: 8 },
  U64: { dtype: "u64", bytes: 8 },
  I32: { dtype: "i32", bytes: 4 },
  U32: { dtype: "u32", bytes: 4 },
  I16: { dtype: "i16", bytes: 2 },
  U16: { dtype: "u16", bytes: 2 },
  I8: { dtype: "i8", bytes: 1 },
  U8: { dtype: "u8", bytes: 1 },
  BOOL: { dtype: "bool", bytes: 1 },
};

/** Types of the format that are known and declined. */
const declined: readonly string[] = [
  ...["F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"],
  ...["F6_E2M3", "F6_E3M2", "F4", "C64"],
];

/** Reads and checks the header of one safetensors file; `file` is the index its records carry. */
export function parseSafetensors(source: ByteSource, file = 0): ReadonlyMap<string, TensorRecord> {
  const where = source.path;
  const length = headerLength(source);
  const bytes = new Uint8Array(length);
  source.read(8, bytes);
  const header = parseHeader(where, bytes);
  const records = new Map<string, TensorRecord>();
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") checkMetadata(where, value);
    else records.set(name, record(where, name, value, file, 8 + length));
  }
  checkRanges(where, source.size, [...records.values()]);
  checkCovered(source, 8 + length, [...records.values()]);
  return records;
}

function headerLength(source: ByteSource): number {
  const { path: where, size } = source;
  if (size === 0) throw unexpected("file_malformed", where, "a safetensors file", "an empty file");
  const head = new Uint8Array(Math.min(size, 64));
  source.read(0, head);
  if (size < 10 || head[8] !== 0x7b) {
    const got =
      describeMagic(head) ?? (size < 10 ? `${size} bytes` : "a file without a JSON header at byte 8");
    throw unexpected("file_malformed", where, "a safetensors file", got);
  }
  const length = new DataView(head.buffer).getBigUint64(0, true);
  const limit = Math.min(MAX_HEADER_BYTES, size - 8);
  if (length >= 2n && length <= BigInt(limit)) return Number(length);
  throw unexpected("file_malformed", where, `a header of 2 to ${limit} bytes`, length, {
    fix: "The file is truncated or its header is damaged",
  });
}

function parseHeader(where: string, bytes: Uint8Array): Readonly<Record<string, Json>> {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch (cause) {
    throw unexpected("file_malformed", where, "a header in UTF-8", "bytes that are not valid UTF-8", {
      cause,
    });
  }
  const header = parseStrictJson(text, where, MAX_DEPTH);
  if (isObject(header)) return header;
  throw unexpected(
    "file_malformed",
    where,
    "a header object",
    Array.isArray(header) ? "a list" : typeof header,
  );
}

function checkMetadata(where: string, value: Json): void {
  if (isObject(value) && Object.values(value).every((v) => typeof v === "string")) return;
  throw unexpected("file_malformed", where, "__metadata__ as an object of strings", shown(value));
}

/** The format leaves no byte of the data unnamed: bytes that belong to no tensor mean a damaged header. */
function checkCovered(source: ByteSource, dataStart: number, records: readonly TensorRecord[]): void {
  const named = records.reduce((sum, { bytes }) => sum + bytes, 0);
  const present = source.size - dataStart;
  if (named === present) return;
  throw unexpected(
    "file_malformed",
    source.path,
    `${named} bytes of data, all of tensors`,
    `${present} bytes`,
  );
}

function record(where: string, name: string, value: Json, file: number, dataStart: number): TensorRecord {
  const bad = (expected: string, got: Json | undefined) =>
    unexpected("file_malformed", where, `${expected} for ${quote(name)}`, shown(got));
  if (name === "") throw unexpected("file_malformed", where, "a name for every tensor", "an empty string");
  if (!isObject(value)) throw bad("an object", value);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype === "string" && declined.includes(dtype)) {
    const known = Object.keys(types).join(", ");
    throw unexpected("unsupported", where, `${quote(name)} in a supported type (${known})`, dtype);
  }
  const type = typeof dtype === "string" && Object.hasOwn(types, dtype) ? types[dtype] : undefined;
  if (!type) throw bad(`a dtype of ${Object.keys(types).join(", ")}`, dtype);
  if (!isCounts(shape) || shape.length > MAX_DIMENSIONS) throw bad("a shape", shape);
  if (!isCounts(offsets) || offsets.length !== 2) throw bad("two data_offsets", offsets);
  const [begin, end] = offsets as [number, number];
  const bytes = shape.reduce((a, b) => a * b, type.bytes);
  if (!Number.isSafeInteger(bytes) || end - begin !== bytes || !Number.isSafeInteger(dataStart + end))
    throw bad(`a range of ${bytes} bytes`, offsets);
  return { name, dtype: type.dtype, shape, file, offset: dataStart + begin, bytes };
}

function isCounts(value: Json | undefined): value is readonly number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function shown(value: Json | undefined): string {
  return quote(JSON.stringify(value) ?? "nothing");
}
