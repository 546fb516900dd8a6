/** Paged caches and attention calls over them, for the tests of this folder. */
import { type DType, dtypes, rowBytes } from "../../src/core/dtype.ts";
import { floats, opened, randomFloats } from "./library.ts";
import { ints, run, runReference } from "./twins.ts";

/** One geometry of the cache and of attention over it. */
export type Case = {
  readonly cacheType: Extract<DType, "f32" | "f16" | "bf16" | "fp8" | "q8_0">;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly pageSize: number;
  readonly window: number;
  readonly softcap: number;
  /** false: none; true: seeded; a number: the value of every head. */
  readonly sinks: boolean | number;
};
export const plain: Case = {
  ...{ cacheType: "f32", heads: 4, kvHeads: 2, headDim: 64, pageSize: 32 },
  ...{ window: 0, softcap: 0, sinks: false },
};
export const cacheTypes = ["f32", "f16", "bf16", "fp8", "q8_0"] as const;

export type Cache = {
  readonly keys: Uint8Array;
  readonly values: Uint8Array;
  readonly table: Int32Array;
  readonly maxPages: number;
};
export type Query = { readonly sequence: number; readonly position: number };

/** Positions from..to-1 of a sequence. */
export function span(sequence: number, from: number, to: number): Query[] {
  return Array.from({ length: to - from }, (_, i) => ({ sequence, position: from + i }));
}

/**
 * A cache without content for sequences of up to `lengths` positions. Bytes are 0xff, NaN or the like in every type, so
 * that a result which takes in more than was written shows it; pages lie in no order that a kernel could rely on.
 */
export function emptyCache(c: Case, lengths: readonly number[]): Cache {
  const maxPages = Math.ceil(Math.max(...lengths) / c.pageSize) + 1;
  const pages = lengths.length * maxPages + 3;
  const bytes = pages * rowBytes(c.cacheType, c.headDim) * c.kvHeads * c.pageSize;
  const make = () => new Uint8Array(new ArrayBuffer(Math.max(2048, bytes))).fill(0xff);
  const table = ints(
    lengths.flatMap((_, s) => Array.from({ length: maxPages }, (_, p) => pages - 1 - (s * maxPages + p))),
  );
  return { keys: make(), values: make(), table, maxPages };
}

/** Writes the rows [k, v] of tokens; the library must be open. */
export function write(
  c: Case,
  cache: Cache,
  tokens: readonly Query[],
  rows: Float32Array,
  ref = false,
): void {
  const width = c.kvHeads * c.headDim;
  const call = ref ? runReference : run;
  call(
    "kv_write",
    ...[cache.keys, cache.values, rows, rows, cache.table],
    ...[ints(tokens.map((t) => t.sequence)), ints(tokens.map((t) => t.position))],
    ...[tokens.length, 2 * width, 0, 2 * width, width, c.kvHeads, c.headDim, c.pageSize, cache.maxPages],
    dtypes[c.cacheType].id,
  );
}

/** A cache filled with seeded rows, each element at most `size` times as large as those of randomFloats. */
export function filledCache(c: Case, lengths: readonly number[], level: string, size = 1): Cache {
  const cache = emptyCache(c, lengths);
  for (const [s, length] of lengths.entries()) {
    const rows = randomFloats(length * 2 * c.kvHeads * c.headDim, s + 1);
    for (let i = 0; i < rows.length; i++) rows[i]! *= size;
    opened(level, 2, () => write(c, cache, span(s, 0, length), rows));
  }
  return cache;
}

/** Attention into rows of NaN, with exactly the scratch that the header asks for and a guard behind it. */
export function attend(
  c: Case,
  cache: Cache,
  queries: readonly Query[],
  q: Float32Array,
  reference = false,
): Float32Array {
  const width = c.heads * c.headDim;
  const y = floats(queries.length * width).fill(Number.NaN);
  const pieces = Math.ceil((cache.maxPages * c.pageSize) / 64);
  const count = Math.min(queries.length, 4) * c.heads * pieces * (c.headDim + 2);
  const scratch = floats(count + 1024).fill(7, count);
  const sinks =
    typeof c.sinks === "number" ? floats(c.heads).fill(c.sinks) : c.sinks ? randomFloats(c.heads, 99) : null;
  const call = reference ? runReference : run;
  call(
    "attention",
    ...[y, q, cache.keys, cache.values, cache.table],
    ...[ints(queries.map((t) => t.sequence)), ints(queries.map((t) => t.position)), sinks, scratch],
    ...[queries.length, width, 0, c.heads, c.kvHeads, c.headDim, c.pageSize, cache.maxPages, c.window],
    ...[dtypes[c.cacheType].id, 1 / Math.sqrt(c.headDim), c.softcap, count * 4],
  );
  if (scratch.subarray(count).some((v) => v !== 7))
    throw new Error("attention wrote past the scratch it asks for");
  return y;
}
