import { describe, expect, test } from "bun:test";
import { type DType, dtypes, rowBytes } from "../../src/core/dtype.ts";
import { bits, floats, levels, opened, randomFloats } from "./library.ts";
import { ints, largestError, run, runReference } from "./twins.ts";

/**
 * Both sides read the same cache, so only f32 arithmetic differs. Scores here reach some hundreds: their f32 error, a few
 * 1e-5, passes through the exponential to the result.
 */
const tolerance = 1e-4;

type Case = {
  readonly cacheType: Extract<DType, "f32" | "f16" | "bf16" | "q8_0">;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly pageSize: number;
  readonly window: number;
  readonly softcap: number;
  readonly sinks: boolean;
};
const plain: Case = {
  ...{ cacheType: "f32", heads: 4, kvHeads: 2, headDim: 64, pageSize: 32 },
  ...{ window: 0, softcap: 0, sinks: false },
};

/** A cache of one or more sequences with pages in scattered places, filled through kv_write. */
function cacheOf(c: Case, lengths: readonly number[], level: string) {
  const maxPages = Math.ceil(Math.max(...lengths) / c.pageSize) + 1;
  const pages = lengths.length * maxPages + 3;
  const bytes = pages * rowBytes(c.cacheType, c.headDim) * c.kvHeads * c.pageSize;
  const [keys, values] = [new Uint8Array(new ArrayBuffer(bytes)), new Uint8Array(new ArrayBuffer(bytes))];
  // Backwards from the end, so that the pages lie in no order the kernels could rely on.
  const table = ints(
    lengths.flatMap((_, s) => Array.from({ length: maxPages }, (_, p) => pages - 1 - (s * maxPages + p))),
  );
  const width = c.kvHeads * c.headDim;
  for (const [s, length] of lengths.entries()) {
    const rows = randomFloats(length * 2 * width, s + 1);
    const where = [ints(Array(length).fill(s)), ints(Array.from({ length }, (_, i) => i))] as const;
    const args = [length, 2 * width, 0, 2 * width, width, c.kvHeads, c.headDim, c.pageSize, maxPages];
    opened(level, 2, () =>
      run("kv_write", keys, values, rows, rows, table, ...where, ...args, dtypes[c.cacheType].id),
    );
  }
  return { keys, values, table, maxPages };
}
type Cache = ReturnType<typeof cacheOf>;

type Query = { readonly sequence: number; readonly position: number };

function attend(
  c: Case,
  cache: Cache,
  queries: readonly Query[],
  q: Float32Array,
  reference = false,
): Float32Array {
  const width = c.heads * c.headDim;
  const y = floats(queries.length * width).fill(Number.NaN);
  const chunks = Math.ceil((cache.maxPages * c.pageSize) / 128);
  const scratch = new Float32Array(Math.min(queries.length, 4) * c.heads * chunks * (c.headDim + 2) + 1024);
  const sinks = c.sinks ? randomFloats(c.heads, 99) : null;
  const call = reference ? runReference : run;
  call(
    "attention",
    ...[y, q, cache.keys, cache.values, cache.table],
    ...[ints(queries.map((t) => t.sequence)), ints(queries.map((t) => t.position)), sinks, scratch],
    ...[queries.length, width, 0, c.heads, c.kvHeads, c.headDim, c.pageSize, cache.maxPages, c.window],
    ...[dtypes[c.cacheType].id, 1 / Math.sqrt(c.headDim), c.softcap, scratch.byteLength],
  );
  return y;
}

const run0 = (sequence: number, from: number, to: number): Query[] =>
  Array.from({ length: to - from }, (_, i) => ({ sequence, position: from + i }));

describe.each([...levels])("attention on %s", (level) => {
  test.each([
    ["f32", plain],
    ["f16", { ...plain, cacheType: "f16" }],
    ["bf16", { ...plain, cacheType: "bf16" }],
    ["q8_0", { ...plain, cacheType: "q8_0" }],
    ["sinks and a window", { ...plain, sinks: true, window: 50, heads: 8, kvHeads: 1 }],
    ["soft cap", { ...plain, softcap: 5, headDim: 80, pageSize: 16 }],
    ["wide heads", { ...plain, headDim: 256, heads: 2, kvHeads: 1, pageSize: 128 }],
    ["many heads of one kv head", { ...plain, headDim: 32, heads: 40, kvHeads: 1, pageSize: 256 }],
    ["odd group", { ...plain, heads: 21, kvHeads: 3, headDim: 16 }],
  ] as [string, Case][])("%s", (_name, c) => {
    const cache = cacheOf(c, [300, 131, 1], level);
    const queries = [...run0(0, 0, 37), ...run0(1, 100, 131), ...run0(2, 0, 1), ...run0(0, 255, 300)];
    const q = randomFloats(queries.length * c.heads * c.headDim, 77);
    const y = opened(level, 2, () => attend(c, cache, queries, q));
    expect(largestError(y, attend(c, cache, queries, q, true))).toBeLessThan(tolerance);
  });

  test("a token's bits do not depend on its company, on threads or on phase", () => {
    const c: Case = { ...plain, cacheType: "f16", heads: 8, sinks: true };
    const cache = cacheOf(c, [400, 200], level);
    const queries = [...run0(0, 300, 340), ...run0(1, 10, 30)];
    const width = c.heads * c.headDim;
    const q = randomFloats(queries.length * width, 5);
    const together = opened(level, 2, () => attend(c, cache, queries, q));
    for (const threads of [1, 2]) {
      opened(level, threads, () => {
        for (const i of [0, 7, 39, 40, 59]) {
          const row = floats(width);
          row.set(q.subarray(i * width, (i + 1) * width));
          const alone = attend(c, cache, [queries[i]!], row);
          expect(bits(alone)).toEqual(bits(together.slice(i * width, (i + 1) * width)));
        }
      });
    }
  });

  test("a window of 128 sees the token 127 back and not the one 128 back", () => {
    const c: Case = { ...plain, heads: 1, kvHeads: 1, window: 128 };
    const cache = cacheOf(c, [300], level);
    const q = randomFloats(c.headDim, 1);
    const at = (position: number) => opened(level, 1, () => attend(c, cache, [{ sequence: 0, position }], q));
    const before = at(200);
    const change = (position: number) => {
      const page = cache.table[Math.floor(position / c.pageSize)]!;
      new Float32Array(cache.values.buffer)[(page * c.pageSize + (position % c.pageSize)) * c.headDim] = 1000;
    };
    change(200 - 128);
    expect(at(200)).toEqual(before);
    change(200 - 127);
    expect(at(200)).not.toEqual(before);
  });
});

test("a position without a page is refused", () => {
  const cache = cacheOf(plain, [100], "plain");
  cache.table[1] = -1;
  const q = randomFloats(plain.heads * plain.headDim, 1);
  expect(() => opened("plain", 1, () => attend(plain, cache, [{ sequence: 0, position: 99 }], q))).toThrow(
    /page 1/,
  );
});
