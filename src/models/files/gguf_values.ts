import { isUtf8 } from "node:buffer";
import { unexpected } from "../../core/error.ts";
import type { HeaderCursor } from "./gguf_cursor.ts";
import { type StringTable, stringTable } from "./string_table.ts";

export type IntegerType = "u8" | "i8" | "u16" | "i16" | "u32" | "i32" | "u64" | "i64";
export type FloatType = "f32" | "f64";
export type ElementType = IntegerType | FloatType | "bool" | "string";
export type NumericArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

/** One metadata value. 64-bit integers are numbers below 2^53 and bigints beyond; a bool array holds 0 and 1. */
export type GgufValue =
  | { readonly type: IntegerType; readonly value: number | bigint }
  | { readonly type: FloatType; readonly value: number }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | { readonly type: "array"; readonly elementType: "string"; readonly value: StringTable }
  | {
      readonly type: "array";
      readonly elementType: Exclude<ElementType, "string">;
      readonly value: NumericArray;
    };

/** Element types by GGUF id; 9 is the array itself. */
export const elementTypeIds: readonly (ElementType | "array")[] = [
  "u8",
  "i8",
  "u16",
  "i16",
  "u32",
  "i32",
  "f32",
  "bool",
  "string",
  "array",
  "u64",
  "i64",
  "f64",
];

const MAX_STRING_BYTES = 1 << 26;
const MAX_ARRAY_ELEMENTS = 1 << 26;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const numericArrays = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
  bool: Uint8Array,
  u64: BigUint64Array,
  i64: BigInt64Array,
  f64: Float64Array,
} as const;

/** Reads a length-prefixed string of at most `limit` bytes. */
export function readString(cursor: HeaderCursor, what: string, limit = MAX_STRING_BYTES): string {
  const length = cursor.size(`the length of ${what}`);
  if (length > limit) {
    throw unexpected("file_malformed", cursor.path, `${what} of at most ${limit} bytes`, `${length} bytes`);
  }
  const bytes = cursor.take(length, what);
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw invalidUtf8(cursor.path, what, cause);
  }
}

/** Reads a value of the type that a metadata record declares; `key` is for messages. */
export function readValue(cursor: HeaderCursor, typeId: number, key: string): GgufValue {
  const type = elementTypeIds[typeId];
  if (type === undefined) {
    throw unexpected("file_malformed", cursor.path, `a value type from 0 to 12 for ${key}`, typeId);
  }
  switch (type) {
    case "array":
      return readArray(cursor, key);
    case "string":
      return { type, value: readString(cursor, key) };
    case "bool":
      return { type, value: readBool(cursor, key) };
    case "f32":
    case "f64":
      return { type, value: Number(readNumber(cursor, type, key)) };
    default:
      return { type, value: exactInteger(readNumber(cursor, type, key)) };
  }
}

function readBool(cursor: HeaderCursor, key: string): boolean {
  const value = cursor.u8(key);
  if (value > 1) throw unexpected("file_malformed", cursor.path, `0 or 1 for the bool ${key}`, value);
  return value === 1;
}

function readNumber(
  cursor: HeaderCursor,
  type: Exclude<ElementType, "string">,
  key: string,
): number | bigint {
  const Numbers = numericArrays[type];
  const value = new Numbers(cursor.take(Numbers.BYTES_PER_ELEMENT, key).slice().buffer)[0];
  return value ?? 0;
}

function exactInteger(value: number | bigint): number | bigint {
  const asNumber = Number(value);
  return Number.isSafeInteger(asNumber) ? asNumber : value;
}

function readArray(cursor: HeaderCursor, key: string): GgufValue {
  const id = cursor.u32(`the element type of ${key}`);
  const elementType = elementTypeIds[id];
  if (elementType === undefined) {
    throw unexpected("file_malformed", cursor.path, `an element type from 0 to 12 for ${key}`, id);
  }
  if (elementType === "array") {
    throw unexpected(
      "unsupported",
      cursor.path,
      `an array of scalars or strings for ${key}`,
      "an array of arrays",
    );
  }
  const count = cursor.size(`the length of ${key}`);
  const elementBytes = elementType === "string" ? 8 : numericArrays[elementType].BYTES_PER_ELEMENT;
  if (count > MAX_ARRAY_ELEMENTS || count * elementBytes > cursor.remaining) {
    throw unexpected(
      "file_malformed",
      cursor.path,
      `an array ${key} that fits in the remaining ${cursor.remaining} bytes (limit ${MAX_ARRAY_ELEMENTS} elements)`,
      `${count} elements`,
    );
  }
  if (elementType === "string") return { type: "array", elementType, value: readStrings(cursor, count, key) };
  const bytes = cursor.take(count * elementBytes, key);
  if (elementType === "bool" && bytes.some((b) => b > 1)) {
    throw unexpected("file_malformed", cursor.path, `0 or 1 in the bool array ${key}`, "another byte");
  }
  const Numbers = numericArrays[elementType];
  return { type: "array", elementType, value: new Numbers(bytes.slice().buffer) };
}

/**
 * Walks the length prefixes once and checks the text; strings are decoded when asked for. A vocabulary and its merges
 * are hundreds of thousands of strings, so what is already fetched is walked without a call for each field.
 */
function readStrings(cursor: HeaderCursor, count: number, key: string): StringTable {
  const start = cursor.position;
  const starts = new Uint32Array(count);
  const ends = new Uint32Array(count);
  let { bytes, view, position: at } = cursor;
  const fetch = (length: number): void => {
    cursor.position = at;
    cursor.ensure(length, key);
    ({ bytes, view } = cursor);
  };
  for (let i = 0; i < count; i++) {
    if (at + 8 > bytes.length) fetch(8);
    const length = view.getUint32(at, true);
    if (length > MAX_STRING_BYTES || view.getUint32(at + 4, true) !== 0) {
      const got = view.getBigUint64(at, true);
      throw unexpected(
        "file_malformed",
        cursor.path,
        `strings of at most ${MAX_STRING_BYTES} bytes in ${key}`,
        got,
      );
    }
    at += 8;
    if (at + length > bytes.length) fetch(length);
    starts[i] = at - start;
    const end = at + length;
    while (at < end && bytes[at]! < 128) at++;
    if (at < end && !isUtf8(bytes.subarray(at, end))) throw invalidUtf8(cursor.path, `${key}[${i}]`);
    at = end;
    ends[i] = end - start;
  }
  cursor.position = at;
  return stringTable(Buffer.from(bytes.slice(start, at).buffer), starts, ends);
}

function invalidUtf8(path: string, what: string, cause?: unknown) {
  return unexpected("file_malformed", path, `${what} in UTF-8`, "bytes that are not valid UTF-8", { cause });
}
