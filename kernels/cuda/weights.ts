/** Weights in device memory and what they are worth, for the tests of products, packing and embeddings. */
import type { Pointer } from "bun:ffi";
import { type DType, dtypes, fileTypes, rowBytes } from "../../src/core/dtype.ts";
import { floats, native, check as nativeCheck } from "../cpu/library.ts";
import { check, cuda, deviceBytes } from "./library.ts";

/** All types whose products are computed with weights rounded to bf16. */
export const roundedTypes = fileTypes.filter((t) => t !== "f32" && t !== "f64" && t !== "i32");

export function packedBytes(dtype: DType, rows: number, columns: number): number {
  const size = new Float64Array(256);
  check(cuda.psi_packed_bytes!(size, rows, columns, dtypes[dtype].id));
  return size[0]!;
}

/** A matrix in the device's layout. */
export function packedOnDevice(dtype: DType, file: Uint8Array, rows: number, columns: number): Pointer {
  const address = deviceBytes(packedBytes(dtype, rows, columns));
  check(cuda.psi_pack!(address, file, rows, columns, dtypes[dtype].id));
  return address;
}

/** The values of a matrix in file layout, f32 [rows, columns]. */
export function fileValues(dtype: DType, file: Uint8Array, rows: number, columns: number): Float32Array {
  const y = floats(rows * columns);
  nativeCheck(native.psi_dequantize_ref(y, file, rows, columns, dtypes[dtype].id));
  return y;
}

/** Rounded to the nearest bf16, ties to even. */
export function roundToBf16(values: Float32Array): Float32Array {
  const words = new Uint32Array(values.slice().buffer);
  for (let i = 0; i < words.length; i++) {
    const w = words[i]!;
    const finiteOrInfinite = (w & 0x7fffffff) <= 0x7f800000;
    words[i] = finiteOrInfinite ? ((w + 0x7fff + ((w >>> 16) & 1)) >>> 0) & 0xffff0000 : w;
  }
  return new Float32Array(words.buffer);
}

/** Types whose products take x in two parts of bf16 instead of rounding it (round.cuh). */
export const inTwoParts = (dtype: DType): boolean => dtype === "bf16" || dtype === "f16";

/** Bytes of scratch for rows of x, without what experts' products take besides. */
export function roundedBytes(dtype: DType, rows: number, columns: number): number {
  return inTwoParts(dtype) ? rows * Math.ceil(columns / 64) * 256 : rows * columns * 2;
}

/** Values that differ, 0 and -0 being the same, and a NaN the same as a NaN. */
export function differences(got: Float32Array, want: Float32Array): number {
  let count = got.length === want.length ? 0 : Number.POSITIVE_INFINITY;
  for (let i = 0; i < got.length; i++)
    if (got[i] !== want[i] && !(Number.isNaN(got[i]) && Number.isNaN(want[i]))) count++;
  return count;
}

export function fileBytes(dtype: DType, rows: number, columns: number): number {
  return rows * rowBytes(dtype, columns);
}
