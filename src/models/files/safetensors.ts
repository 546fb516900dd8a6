import { unexpected } from "../../core/error.ts";
import type { ByteSource } from "./bytes.ts";
import { checkRanges, quote, type StoredType, type TensorRecord } from "./tensors.ts";

/** Largest header the format's reference reader takes. */
const MAX_HEADER_BYTES = 100_000_000;
const MAX_DIMENSIONS = 8;

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

/** Reads and checks the header of one safetensors file; `file` is the index its records carry. */
export function parseSafetensors(source: ByteSource, file = 0): ReadonlyMap<string, TensorRecord> {
  const where = source.path;
  if (source.size < 8)
    throw unexpected("file_malformed", where, "a safetensors file of at least 8 bytes", source.size);
  const head = new Uint8Array(8);
  source.read(0, head);
  const length = Number(new DataView(head.buffer).getBigUint64(0, true));
  if (length < 2 || length > MAX_HEADER_BYTES || length > source.size - 8) {
    const limit = Math.min(MAX_HEADER_BYTES, source.size - 8);
    throw unexpected("file_malformed", where, `a header of 2 to ${limit} bytes`, length);
  }
  const bytes = new Uint8Array(length);
  source.read(8, bytes);
  const header = parseHeader(where, bytes);
  const records = new Map<string, TensorRecord>();
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    records.set(name, record(where, name, value, file, 8 + length));
  }
  checkRanges(where, source.size, [...records.values()]);
  return records;
}

function parseHeader(where: string, bytes: Uint8Array): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw unexpected("file_malformed", where, "a header of JSON in UTF-8", "text that does not parse", {
      cause,
    });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw unexpected(
      "file_malformed",
      where,
      "a header object",
      Array.isArray(value) ? "a list" : typeof value,
    );
  }
  return value as Record<string, unknown>;
}

function record(where: string, name: string, value: unknown, file: number, dataStart: number): TensorRecord {
  const bad = (expected: string, got: unknown) =>
    unexpected(
      "file_malformed",
      where,
      `${expected} for ${quote(name)}`,
      quote(JSON.stringify(got) ?? "nothing"),
    );
  if (typeof value !== "object" || value === null) throw bad("an object", value);
  const entry = value as { dtype?: unknown; shape?: unknown; data_offsets?: unknown };
  const type =
    typeof entry.dtype === "string" && Object.hasOwn(types, entry.dtype) ? types[entry.dtype] : undefined;
  if (!type) throw bad(`a dtype of ${Object.keys(types).join(", ")}`, entry.dtype);
  if (!isCounts(entry.shape) || entry.shape.length > MAX_DIMENSIONS) throw bad("a shape", entry.shape);
  if (!isCounts(entry.data_offsets) || entry.data_offsets.length !== 2)
    throw bad("two data_offsets", entry.data_offsets);
  const [begin, end] = entry.data_offsets as [number, number];
  const bytes = entry.shape.reduce((a, b) => a * b, type.bytes);
  if (!Number.isSafeInteger(bytes) || end - begin !== bytes)
    throw bad(`a range of ${bytes} bytes`, entry.data_offsets);
  return { name, dtype: type.dtype, shape: entry.shape, file, offset: dataStart + begin, bytes };
}

function isCounts(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}
