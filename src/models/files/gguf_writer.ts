import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { type DType, dtypes, rowBytes } from "../../core/dtype.ts";
import { unexpected } from "../../core/error.ts";
import type { Shape } from "../../core/shape.ts";
import { fileError } from "./bytes.ts";
import { type ElementType, elementTypeIds, type FloatType, type IntegerType } from "./gguf_values.ts";

/** A metadata value to write. */
export type MetadataValue =
  | { readonly type: IntegerType | FloatType; readonly value: number }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | {
      readonly type: "array";
      readonly elementType: ElementType;
      readonly value: readonly (number | string | boolean)[];
    };

/** A tensor to write; `chunks` gives its bytes in order, so that large ones need not be held at once. */
export type TensorToWrite = {
  readonly name: string;
  readonly dtype: DType;
  /** Slowest dimension first. */
  readonly shape: Shape;
  chunks(): Iterable<Uint8Array>;
};

const alignment = 32;
const aligned = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;

/** Writes a GGUF v3 file: aside, synced unless told not to, then renamed to `path`. */
export function writeGguf(
  path: string,
  metadata: Readonly<Record<string, MetadataValue>>,
  tensors: readonly TensorToWrite[],
  { sync = true }: { readonly sync?: boolean } = {},
): void {
  const aside = `${path}.${process.pid}.part`;
  const file = openAside(path, aside);
  try {
    let position = writeAll(file, ggufHeader(metadata, tensors), 0);
    for (const tensor of tensors) {
      const start = position;
      for (const chunk of tensor.chunks()) position = writeAll(file, chunk, position);
      const expected = tensorBytes(tensor);
      if (position - start !== expected) {
        throw unexpected("invalid_argument", tensor.name, `${expected} bytes`, position - start);
      }
      position = writeAll(file, new Uint8Array(aligned(expected) - expected), position);
    }
    if (sync) fsyncSync(file);
    renameSync(aside, path);
  } finally {
    closeSync(file);
    rmSync(aside, { force: true });
  }
}

function openAside(path: string, aside: string): number {
  try {
    return openSync(aside, "w");
  } catch (cause) {
    throw fileError(path, cause);
  }
}

/** The header up to the aligned start of the data. */
export function ggufHeader(
  metadata: Readonly<Record<string, MetadataValue>>,
  tensors: readonly Omit<TensorToWrite, "chunks">[],
): Uint8Array {
  const out = new HeaderWriter();
  out.bytes(new TextEncoder().encode("GGUF"));
  out.u32(3);
  out.u64(tensors.length);
  const entries = Object.entries(metadata);
  out.u64(entries.length);
  for (const [key, value] of entries) {
    out.string(key);
    out.value(value);
  }
  let offset = 0;
  for (const tensor of tensors) {
    out.string(tensor.name);
    out.u32(tensor.shape.length);
    for (const dimension of [...tensor.shape].reverse()) out.u64(dimension);
    out.u32(dtypes[tensor.dtype].id);
    out.u64(offset);
    offset += aligned(tensorBytes(tensor));
  }
  out.bytes(new Uint8Array(aligned(out.length) - out.length));
  return out.take();
}

function tensorBytes({ dtype, shape }: Omit<TensorToWrite, "chunks">): number {
  return shape.slice(0, -1).reduce((a, b) => a * b, 1) * rowBytes(dtype, shape.at(-1) ?? 1);
}

function writeAll(file: number, bytes: Uint8Array, position: number): number {
  let done = 0;
  while (done < bytes.length) done += writeSync(file, bytes, done, bytes.length - done, position + done);
  return position + bytes.length;
}

/** A growing little-endian buffer. */
class HeaderWriter {
  #buffer = new Uint8Array(1 << 16);
  length = 0;

  bytes(data: Uint8Array): void {
    this.#room(data.length);
    this.#buffer.set(data, this.length);
    this.length += data.length;
  }

  u32(value: number): void {
    this.#view(4).setUint32(0, value, true);
  }

  u64(value: number): void {
    this.#view(8).setBigUint64(0, BigInt(value), true);
  }

  string(text: string): void {
    const data = new TextEncoder().encode(text);
    this.u64(data.length);
    this.bytes(data);
  }

  value(value: MetadataValue): void {
    this.u32(elementTypeIds.indexOf(value.type));
    if (value.type !== "array") {
      this.#element(value.type, value.value);
      return;
    }
    this.u32(elementTypeIds.indexOf(value.elementType));
    this.u64(value.value.length);
    for (const element of value.value) this.#element(value.elementType, element);
  }

  take(): Uint8Array {
    return this.#buffer.slice(0, this.length);
  }

  #element(type: ElementType, value: number | string | boolean): void {
    if (type === "string") this.string(String(value));
    else if (type === "bool") this.#view(1).setUint8(0, value ? 1 : 0);
    else this.#number(type, Number(value));
  }

  #number(type: IntegerType | FloatType, value: number): void {
    switch (type) {
      case "u8":
      case "i8":
        this.#view(1).setInt8(0, value);
        break;
      case "u16":
      case "i16":
        this.#view(2).setInt16(0, value, true);
        break;
      case "u32":
      case "i32":
        this.#view(4).setInt32(0, value, true);
        break;
      case "u64":
      case "i64":
        this.#view(8).setBigInt64(0, BigInt(value), true);
        break;
      case "f32":
        this.#view(4).setFloat32(0, value, true);
        break;
      case "f64":
        this.#view(8).setFloat64(0, value, true);
        break;
    }
  }

  #view(bytes: number): DataView {
    this.#room(bytes);
    const view = new DataView(this.#buffer.buffer, this.length, bytes);
    this.length += bytes;
    return view;
  }

  #room(bytes: number): void {
    if (this.length + bytes <= this.#buffer.length) return;
    const larger = new Uint8Array(Math.max(this.#buffer.length * 2, this.length + bytes));
    larger.set(this.#buffer);
    this.#buffer = larger;
  }
}
