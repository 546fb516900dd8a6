import { describe, expect, test } from "bun:test";
import { bits, floats, randomFloats } from "../cpu/library.ts";
import { onFibers } from "./library.ts";
import {
  attend,
  type Case,
  emptyTwins,
  filledTwins,
  plain,
  type Query,
  scaled,
  span,
  writeTwins,
} from "./paged.ts";

/** Rows `from` to `to` of q, as an array of their own. */
function part(c: Case, q: Float32Array, from: number, to: number): Float32Array {
  const width = c.heads * c.headDim;
  const out = floats((to - from) * width);
  out.set(q.subarray(from * width, to * width));
  return out;
}

/** The queries' results when they come `count` at a time: up to 4, up to 8 and more are work of different kernels. */
function inSteps(
  c: Case,
  run: (queries: readonly Query[], q: Float32Array) => Float32Array,
  queries: readonly Query[],
  q: Float32Array,
  count: number,
) {
  const y = floats(queries.length * c.heads * c.headDim);
  for (let from = 0; from < queries.length; from += count) {
    const to = Math.min(from + count, queries.length);
    y.set(run(queries.slice(from, to), part(c, q, from, to)), from * c.heads * c.headDim);
  }
  return y;
}

const cases: readonly [string, Case][] = [
  ["f16, groups of 8, sinks", { ...plain, cacheType: "f16", heads: 8, kvHeads: 1, sinks: true }],
  [
    "bf16, odd group, window",
    { ...plain, cacheType: "bf16", heads: 5, kvHeads: 1, headDim: 80, window: 100, pageSize: 48 },
  ],
  [
    "q8_0, no group, soft cap",
    { ...plain, cacheType: "q8_0", heads: 2, softcap: 3, headDim: 32, pageSize: 16 },
  ],
  ["f32, groups of 12, wide window", { ...plain, heads: 12, kvHeads: 1, headDim: 128, window: 300 }],
  ["fp8, a group of 3, soft cap", { ...plain, cacheType: "fp8", heads: 3, kvHeads: 1, softcap: 3 }],
  ["f16, wide heads", { ...plain, cacheType: "f16", heads: 2, kvHeads: 1, headDim: 256, pageSize: 64 }],
  ["bf16, widest heads", { ...plain, cacheType: "bf16", heads: 3, kvHeads: 1, headDim: 512 }],
  [
    "f16, wide heads, groups of 9, window",
    { ...plain, cacheType: "f16", heads: 9, kvHeads: 1, headDim: 192, window: 100 },
  ],
];

describe("bits of attention", () => {
  test.each(cases)(
    "alone, by few and in runs: %s",
    (_name, c) => {
      const length = c.headDim > 128 ? 200 : 600; // beyond some tiles few tokens are split over the device
      const twins = filledTwins(c, [length, 90]);
      const count = onFibers ? 8 : 200;
      const queries = [
        ...span(1, 80, 85),
        ...span(0, length - count, length - count / 2),
        ...span(1, 5, 7),
        ...span(0, length - count / 2, length),
        ...span(1, 50, 74), // more than 32 in all, so that runs are looked for
      ];
      const q = randomFloats(queries.length * c.heads * c.headDim, 5);
      const run = (some: readonly Query[], rows: Float32Array) => attend(c, twins, some, rows);
      const together = run(queries, q);
      expect(together.some(Number.isNaN)).toBe(false);
      const some = onFibers ? queries.slice(0, 18) : queries;
      for (const count of c.headDim > 128 ? [1, 7] : [1, 3, 7])
        expect(bits(inSteps(c, run, some, q, count))).toEqual(bits(part(c, together, 0, some.length)));
    },
    30_000,
  );

  test("values of all sizes, written before and after a token", () => {
    const c: Case = { ...plain, cacheType: "f16", heads: 4, kvHeads: 1 };
    const rows = randomFloats(600 * 128, 9);
    for (let i = 0; i < rows.length; i++)
      if (i % 128 >= 64) rows[i]! *= 2 ** ((((i * 2654435761) >>> 7) % 24) - 12);
    const queries = span(0, 560, 600);
    const q = scaled(randomFloats(queries.length * 256, 4), 2);
    const full = emptyTwins(c, [600]);
    writeTwins(c, full, span(0, 0, 600), rows);
    const together = attend(c, full, queries, q);
    const growing = emptyTwins(c, [600]);
    writeTwins(c, growing, span(0, 0, 560), rows);
    for (const [i, query] of queries.entries()) {
      writeTwins(c, growing, [query], rows.slice(query.position * 128, (query.position + 1) * 128));
      if (onFibers && i % 4 !== 0) continue;
      const alone = attend(c, growing, [query], part(c, q, i, i + 1));
      expect(bits(alone)).toEqual(bits(part(c, together, i, i + 1)));
    }
  });

  test("infinite values after a token or before its window do not reach it", () => {
    const c: Case = { ...plain, cacheType: "f16", heads: 4, kvHeads: 1, window: 40 };
    const rows = scaled(randomFloats(140 * 128, 9), 0.25);
    for (const position of [62, 131])
      for (let d = 64; d < 128; d += 5) rows[position * 128 + d] = Number.POSITIVE_INFINITY;
    const queries = span(0, 100, 136);
    const q = randomFloats(queries.length * 256, 4);
    const twins = emptyTwins(c, [600]);
    writeTwins(c, twins, span(0, 0, 140), rows);
    const together = attend(c, twins, queries, q);
    for (const [i, query] of queries.entries()) {
      const alone = attend(c, twins, [query], part(c, q, i, i + 1));
      expect(bits(alone)).toEqual(bits(part(c, together, i, i + 1)));
      expect(alone.every(Number.isFinite)).toBe(query.position > 101 && query.position < 131);
    }
  });
});
