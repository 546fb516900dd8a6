/**
 * The same paged cache on the device and for the CPU's references: each side's is written by its own kv_write, as their
 * layouts differ; pages and page tables are the same. Cases are those of kernels/cpu/paged.ts.
 */
import type { Pointer } from "bun:ffi";
import { type DType, dtypes, rowBytes } from "../../src/core/dtype.ts";
import { attentionScratchBytes } from "../../src/ir/ops/attention.ts";
import { floats, randomFloats } from "../cpu/library.ts";
import * as cpu from "../cpu/paged.ts";
import { ints } from "../cpu/twins.ts";
import { check, cuda, floatsFromDevice, fromDevice, onDevice } from "./library.ts";

export type { Case, Query } from "../cpu/paged.ts";
export { cacheTypes, plain, span } from "../cpu/paged.ts";

export type Twins = {
  readonly cpu: cpu.Cache;
  readonly keys: Pointer;
  readonly values: Pointer;
  readonly table: Pointer;
  readonly bytes: number;
};

/** Empty caches on both sides, every byte 0xff: NaN or the like in every type. */
export function emptyTwins(c: cpu.Case, lengths: readonly number[]): Twins {
  const host = cpu.emptyCache(c, lengths);
  return {
    cpu: host,
    keys: onDevice(host.keys),
    values: onDevice(host.values),
    table: onDevice(host.table),
    bytes: host.keys.byteLength,
  };
}

/** Writes the rows [k, v] of tokens on both sides. */
export function writeTwins(
  c: cpu.Case,
  twins: Twins,
  tokens: readonly cpu.Query[],
  rows: Float32Array,
): void {
  cpu.write(c, twins.cpu, tokens, rows, true);
  const [width, on] = [c.kvHeads * c.headDim, onDevice(rows)];
  check(
    cuda.psi_kv_write!(
      ...[twins.keys, twins.values, on, on, twins.table, ...tokenArrays(tokens)],
      ...[tokens.length, 2 * width, 0, 2 * width, width, c.kvHeads, c.headDim, c.pageSize],
      ...[twins.cpu.maxPages, dtypes[c.cacheType].id],
    ),
  );
}

/** Twins filled with seeded rows, elements of order `size`. */
export function filledTwins(c: cpu.Case, lengths: readonly number[], size = 0.25): Twins {
  const twins = emptyTwins(c, lengths);
  for (const [s, length] of lengths.entries()) {
    const rows = scaled(randomFloats(length * 2 * c.kvHeads * c.headDim, s + 1), size);
    writeTwins(c, twins, cpu.span(s, 0, length), rows);
  }
  return twins;
}

export function scaled(values: Float32Array, size: number): Float32Array {
  for (let i = 0; i < values.length; i++) values[i]! *= size;
  return values;
}

export function tokenArrays(tokens: readonly cpu.Query[]): [Pointer, Pointer] {
  return [onDevice(ints(tokens.map((t) => t.sequence))), onDevice(ints(tokens.map((t) => t.position)))];
}

export function sinksOf(c: cpu.Case): Float32Array | null {
  if (typeof c.sinks === "number") return floats(c.heads).fill(c.sinks);
  return c.sinks ? randomFloats(c.heads, 99) : null;
}

/** Attention on the device into rows of NaN, with exactly the scratch that the header asks for and a guard behind it. */
export function attend(
  c: cpu.Case,
  twins: Twins,
  queries: readonly cpu.Query[],
  q: Float32Array,
): Float32Array {
  const width = c.heads * c.headDim;
  const { maxPages } = twins.cpu;
  const count = attentionScratchBytes(queries.length, maxPages, c) / 4;
  const y = onDevice(floats(queries.length * width).fill(Number.NaN));
  const scratch = onDevice(floats(count + 64).fill(7));
  const sinks = sinksOf(c);
  check(
    cuda.psi_attention!(
      ...[y, onDevice(q), twins.keys, twins.values, twins.table, ...tokenArrays(queries)],
      ...[sinks ? onDevice(sinks) : null, scratch, queries.length, width, 0, c.heads, c.kvHeads, c.headDim],
      ...[
        c.pageSize,
        maxPages,
        c.window,
        dtypes[c.cacheType].id,
        1 / Math.sqrt(c.headDim),
        c.softcap,
        count * 4,
      ],
    ),
  );
  if (
    floatsFromDevice(scratch, count + 64)
      .subarray(count)
      .some((v) => v !== 7)
  )
    throw new Error("attention wrote past the scratch it asks for");
  return floatsFromDevice(y, queries.length * width);
}

/** What the CPU's reference makes of the same. */
export function expected(
  c: cpu.Case,
  twins: Twins,
  queries: readonly cpu.Query[],
  q: Float32Array,
): Float32Array {
  return cpu.attend(c, twins.cpu, queries, q, true);
}

/** A page's bytes in the device's layout, from the CPU's, where keys are transposed in tiles of 16 positions. */
export function keysAsValues(c: cpu.Case, keys: Uint8Array): Uint8Array {
  const pageBytes = rowBytes(c.cacheType as DType, c.headDim) * c.kvHeads * c.pageSize;
  const size = { f32: 4, f16: 2, bf16: 2, fp8: 1, q8_0: 1 }[c.cacheType];
  const out = keys.slice();
  const elements = c.kvHeads * c.pageSize * c.headDim;
  const move = (base: number, width: number, bytes: number) => {
    for (let tile = 0; tile < (c.kvHeads * c.pageSize) / 16; tile++)
      for (let d = 0; d < width; d++)
        for (let lane = 0; lane < 16; lane++) {
          const from = base + ((tile * width + d) * 16 + lane) * bytes;
          out.set(keys.subarray(from, from + bytes), base + ((tile * 16 + lane) * width + d) * bytes);
        }
  };
  for (let page = 0; (page + 1) * pageBytes <= keys.length; page++) {
    move(page * pageBytes, c.headDim, size);
    if (c.cacheType === "q8_0") move(page * pageBytes + elements, c.headDim / 32, 2);
  }
  return out;
}

export const bytesOf = (twins: Twins): { readonly keys: Uint8Array; readonly values: Uint8Array } => ({
  keys: fromDevice(twins.keys, twins.bytes),
  values: fromDevice(twins.values, twins.bytes),
});
