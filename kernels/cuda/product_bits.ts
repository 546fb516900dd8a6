/**
 * Products of many rows by way of psi_matmul and psi_moe_matmul, over types and odd sizes. Run as a program it prints a
 * digest of all results, for comparing kernels that an environment variable chooses between.
 */
import type { Pointer } from "bun:ffi";
import { type DType, dtypes, rowBytes } from "../../src/core/dtype.ts";
import { random, randomFloats, randomWeights } from "../cpu/library.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice } from "./library.ts";
import { roundedBytes } from "./weights.ts";

export interface DenseCase {
  readonly dtype: DType;
  readonly rows: number;
  readonly outputs: number;
  readonly columns: number;
}

export const denseCases: readonly DenseCase[] = [
  { dtype: "mxfp4", rows: 130, outputs: 40, columns: 608 },
  { dtype: "q8_0", rows: 70, outputs: 300, columns: 96 },
  { dtype: "q4_k", rows: 65, outputs: 33, columns: 256 },
  { dtype: "f16", rows: 67, outputs: 19, columns: 77 },
  { dtype: "bf16", rows: 200, outputs: 130, columns: 136 },
];

export interface ExpertCase extends DenseCase {
  readonly experts: number;
  readonly used: number;
}

/** `rows` is tokens; the last expert gets most of them, some get none. */
export const expertCases: readonly ExpertCase[] = [
  { dtype: "mxfp4", rows: 60, outputs: 96, columns: 160, experts: 5, used: 3 },
  { dtype: "q8_0", rows: 150, outputs: 64, columns: 64, experts: 40, used: 2 },
  { dtype: "bf16", rows: 150, outputs: 64, columns: 196, experts: 40, used: 2 },
];

export interface Matrices {
  /** file layout, `experts` matrices one after the other */
  readonly file: Uint8Array;
  readonly packed: Pointer;
}

export function matrices(c: DenseCase, experts: number, seed: number): Matrices {
  const file = randomWeights(c.dtype, c.outputs * experts, c.columns, seed);
  const size = new Float64Array(256);
  check(cuda.psi_packed_bytes!(size, c.outputs, c.columns, dtypes[c.dtype].id));
  const packed = deviceBytes(experts * size[0]!);
  const bytes = c.outputs * rowBytes(c.dtype, c.columns);
  for (let e = 0; e < experts; e++) {
    const target = ((packed as number) + e * size[0]!) as Pointer;
    const source = new Uint8Array(new ArrayBuffer(Math.max(bytes, 2048)), 0, bytes);
    source.set(file.subarray(e * bytes, (e + 1) * bytes));
    check(cuda.psi_pack!(target, source, c.outputs, c.columns, dtypes[c.dtype].id));
  }
  return { file, packed };
}

const packedBit = 256;

/** y [rows, outputs] of x f32 [rows, columns]. */
export function product(c: DenseCase, w: Matrices, x: Float32Array, bias: Float32Array): Float32Array {
  const rows = x.length / c.columns;
  const y = deviceBytes(rows * c.outputs * 4);
  const bytes = roundedBytes(c.dtype, rows, c.columns) + 64;
  const [xs, b, scratch] = [onDevice(x), onDevice(bias), deviceBytes(bytes)];
  const sizes = [rows, c.outputs, c.columns, dtypes[c.dtype].id | packedBit, bytes] as const;
  check(cuda.psi_matmul!(y, xs, w.packed, b, scratch, ...sizes));
  return floatsFromDevice(y, rows * c.outputs);
}

/** Expert ids [tokens, used], distinct for a token. */
export function chosenExperts(c: ExpertCase, seed: number): Int32Array {
  const next = random(seed);
  const ids = new Int32Array(new ArrayBuffer(Math.max(2048, c.rows * c.used * 4)), 0, c.rows * c.used);
  for (let t = 0; t < c.rows; t++) {
    const first = next() % 3 === 0 ? next() % c.experts : c.experts - 1;
    for (let j = 0; j < c.used; j++) ids[t * c.used + j] = (first + j * 2) % c.experts;
  }
  return ids;
}

/** y [tokens * used, outputs] of x f32 [tokens, columns]. */
export function expertProduct(
  c: ExpertCase,
  w: Matrices,
  x: Float32Array,
  bias: Float32Array,
  ids: Int32Array,
): Float32Array {
  const tokens = x.length / c.columns;
  const y = deviceBytes(tokens * c.used * c.outputs * 4);
  const bytes = roundedBytes(c.dtype, tokens, c.columns) + 64 + 4 * (tokens * c.used + 3 * c.experts + 16);
  const addresses = [onDevice(x), w.packed, onDevice(bias), onDevice(ids), deviceBytes(bytes)] as const;
  const sizes = [
    tokens,
    c.used,
    c.experts,
    c.outputs,
    c.columns,
    dtypes[c.dtype].id | packedBit,
    0,
    bytes,
  ] as const;
  check(cuda.psi_moe_matmul!(y, ...addresses, ...sizes));
  return floatsFromDevice(y, tokens * c.used * c.outputs);
}

/** The same with gate and up of `outputs / 2` features and the clamped activation. */
export function gatedProduct(
  c: ExpertCase,
  w: Matrices,
  x: Float32Array,
  bias: Float32Array,
  ids: Int32Array,
): Float32Array {
  const tokens = x.length / c.columns;
  const features = c.outputs / 2;
  const y = deviceBytes(tokens * c.used * features * 4);
  const bytes = roundedBytes(c.dtype, tokens, c.columns) + 64 + 4 * (tokens * c.used + 3 * c.experts + 16);
  const addresses = [onDevice(x), w.packed, onDevice(bias), onDevice(ids), deviceBytes(bytes)] as const;
  const sizes = [tokens, c.used, c.experts, features, c.columns, dtypes[c.dtype].id | packedBit] as const;
  check(cuda.psi_moe_glu!(y, ...addresses, ...sizes, 2, 1.702, 7, bytes));
  return floatsFromDevice(y, tokens * c.used * features);
}

/** A digest of the results of all cases. */
export function digest(): string {
  const hash = new Bun.CryptoHasher("sha256");
  for (const [i, c] of denseCases.entries()) {
    const x = randomFloats(c.rows * c.columns, i + 1);
    hash.update(new Uint8Array(product(c, matrices(c, 1, i), x, randomFloats(c.outputs, i)).slice().buffer));
  }
  for (const [i, c] of expertCases.entries()) {
    const w = matrices(c, c.experts, i + 50);
    const x = randomFloats(c.rows * c.columns, i + 60);
    const bias = randomFloats(c.experts * c.outputs, i + 70);
    const ids = chosenExperts(c, i + 80);
    for (const run of [expertProduct, gatedProduct]) {
      hash.update(new Uint8Array(run(c, w, x, bias, ids).slice().buffer));
    }
  }
  return hash.digest("hex");
}

if (import.meta.main) console.log(digest());
