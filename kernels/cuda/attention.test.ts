import { describe, expect, test } from "bun:test";
import { bits, floats, normalisedError, randomFloats } from "../cpu/library.ts";
import { check, cuda, onDevice } from "./library.ts";
import {
  attend,
  type Case,
  cacheTypes,
  emptyTwins,
  expected,
  filledTwins,
  plain,
  type Query,
  scaled,
  span,
  writeTwins,
} from "./paged.ts";

/**
 * Squared error over squared result against f64 sums over the same cache: queries and weights are rounded to the operand
 * type (2^-12 and 2^-9 of their size), and values of q8_0 and f32 caches once more to f16.
 */
const tolerance = { f32: 1e-6, f16: 1e-6, bf16: 3e-5, fp8: 1e-6, q8_0: 1e-6 } as const;

const queriesOf = (c: Case, count: number, seed: number): Float32Array =>
  scaled(randomFloats(count * c.heads * c.headDim, seed), 0.25);

const cases: readonly [string, Case][] = [
  ...cacheTypes.map((cacheType): [string, Case] => [cacheType, { ...plain, cacheType }]),
  [
    "groups of 8, sinks, window",
    { ...plain, cacheType: "f16", sinks: true, window: 50, heads: 8, kvHeads: 1 },
  ],
  ["window of two tiles", { ...plain, cacheType: "f16", sinks: true, window: 128, pageSize: 64 }],
  ["soft cap", { ...plain, cacheType: "f16", softcap: 2, headDim: 80, pageSize: 48 }],
  ["q8_0, odd group", { ...plain, cacheType: "q8_0", heads: 21, kvHeads: 3, headDim: 32, pageSize: 16 }],
  [
    "f32, group of 11, soft cap, window",
    { ...plain, heads: 11, kvHeads: 1, headDim: 16, softcap: 3, window: 7 },
  ],
];

describe("attention against the CPU's reference", () => {
  test.each(cases)("%s", (_name, c) => {
    const twins = filledTwins(c, [200, 131, 1]);
    const all: readonly Query[][] = [
      [...span(0, 0, 21), ...span(1, 100, 121), ...span(2, 0, 1), ...span(0, 180, 200), ...span(1, 64, 66)],
      [...span(1, 130, 131), ...span(0, 199, 200)],
      [{ sequence: 0, position: 63 }, { sequence: 1, position: 64 }, ...span(0, 127, 130), ...span(2, 0, 1)],
    ];
    for (const queries of all) {
      const q = queriesOf(c, queries.length, 77);
      const error = normalisedError(attend(c, twins, queries, q), expected(c, twins, queries, q));
      expect(error).toBeLessThan(tolerance[c.cacheType]);
    }
  });

  test.each([
    ["head of 96", { ...plain, headDim: 96, heads: 3, kvHeads: 3 }],
    ["head of 128", { ...plain, cacheType: "f16", headDim: 128, heads: 4, kvHeads: 2 }],
    ["head of 192", { ...plain, cacheType: "bf16", headDim: 192, heads: 2, kvHeads: 1 }],
    ["head of 256", { ...plain, cacheType: "f16", headDim: 256, heads: 2, kvHeads: 1, pageSize: 128 }],
    ["head of 80, fp8", { ...plain, cacheType: "fp8", headDim: 80, heads: 6, kvHeads: 2, pageSize: 48 }],
    ["head of 128, fp8, window", { ...plain, cacheType: "fp8", headDim: 128, window: 70, sinks: true }],
    ["head of 320", { ...plain, cacheType: "q8_0", headDim: 320, heads: 3, kvHeads: 1, pageSize: 16 }],
    ["head of 512", { ...plain, cacheType: "f16", headDim: 512, heads: 2, kvHeads: 1, pageSize: 16 }],
    ["40 heads of one kv head", { ...plain, headDim: 16, heads: 40, kvHeads: 1, pageSize: 256 }],
  ] as [string, Case][])("%s", (_name, c) => {
    const twins = filledTwins(c, [140, 80]);
    for (const queries of [
      [...span(0, 100, 132), ...span(1, 0, 2)],
      [...span(0, 138, 140), ...span(1, 3, 4)],
    ]) {
      const q = queriesOf(c, queries.length, 7);
      const error = normalisedError(attend(c, twins, queries, q), expected(c, twins, queries, q));
      expect(error).toBeLessThan(tolerance[c.cacheType]);
    }
  });

  test("a window of 128 sees the token 127 back and not the one 128 back", () => {
    const c: Case = { ...plain, heads: 1, kvHeads: 1, window: 128 };
    const q = queriesOf(c, 1, 1);
    const result = (changed: number) => {
      const twins = filledTwins(c, [300]);
      const rows = scaled(randomFloats(2 * c.headDim, 5), 50);
      if (changed >= 0) writeTwins(c, twins, span(0, changed, changed + 1), rows);
      return attend(c, twins, span(0, 200, 201), q);
    };
    expect(result(200 - 128)).toEqual(result(-1));
    expect(result(200 - 127)).not.toEqual(result(-1));
  });

  test("a sink of -inf changes nothing, a great one leaves nothing", () => {
    const q = queriesOf(plain, 1, 1);
    for (const length of [150, 700]) {
      const twins = filledTwins(plain, [length]);
      const y = (sinks: Case["sinks"]) => attend({ ...plain, sinks }, twins, span(0, 149, 150), q);
      expect(bits(y(Number.NEGATIVE_INFINITY))).toEqual(bits(y(false)));
      expect(Math.max(...y(1e6).map(Math.abs))).toBe(0);
    }
  });

  test("no finite score: zero with a sink; a NaN stays one", () => {
    for (const cacheType of ["f16", "f32"] as const) {
      const c: Case = { ...plain, cacheType };
      const twins = emptyTwins(c, [150]);
      const width = c.kvHeads * c.headDim;
      const rows = floats(150 * 2 * width);
      for (let i = 0; i < rows.length; i++) rows[i] = i % (2 * width) < width ? Number.NEGATIVE_INFINITY : 1;
      writeTwins(c, twins, span(0, 0, 150), rows);
      for (const queries of [span(0, 149, 150), span(0, 110, 145)]) {
        const q = floats(queries.length * c.heads * c.headDim);
        const y = () => attend({ ...c, sinks: 0.5 }, twins, queries, q);
        q.fill(1);
        expect([...new Set(y())]).toEqual([0]);
        q.fill(Number.NaN);
        expect(y().every(Number.isNaN)).toBe(true);
      }
    }
  });

  test("f32 keys and queries beyond f16 saturate", () => {
    const twins = emptyTwins(plain, [40]);
    const rows = scaled(randomFloats(40 * 2 * 2 * 64, 3), 0.1);
    writeTwins(plain, twins, span(0, 0, 40), rows.map((v, i) => (i % 100 === 0 ? 1e30 : v)) as Float32Array);
    const q = queriesOf(plain, 1, 1);
    q[3] = -1e30;
    expect(attend(plain, twins, span(0, 39, 40), q).every(Number.isFinite)).toBe(true);
  });

  test("pages that no window reaches may lack; tokens of no sequence give zeros", () => {
    const c: Case = { ...plain, window: 20 };
    const twins = filledTwins(c, [100]);
    const q = queriesOf(c, 40, 1);
    const queries = span(0, 60, 100);
    const before = attend(c, twins, queries, q);
    twins.cpu.table.fill(-1, 0, 1);
    const lacking = { ...twins, table: onDevice(twins.cpu.table) };
    expect(attend(c, lacking, queries, q)).toEqual(before);
    for (const count of [1, 5, 40]) {
      const none = Array.from({ length: count }, () => ({ sequence: -1, position: 0 }));
      const y = attend(c, twins, none, q.slice(0, count * c.heads * c.headDim));
      expect([...new Set(y)]).toEqual([0]);
    }
  });

  test("refuses too little scratch and heads that do not fit", () => {
    const at = onDevice(floats(64));
    const call = (heads: number, scratch: number) =>
      check(
        cuda.psi_attention!(
          ...[at, at, at, at, at, at, at, null, at],
          ...[1, 256, 0, heads, 2, 64, 32, 4, 0, 0, 0.125, 0, scratch],
        ),
      );
    expect(() => call(4, 100)).toThrow(/expected 2112 bytes of scratch, got 100/);
    expect(() => call(3, 1e6)).toThrow(/multiple of kv_heads 2, got heads 3/);
    expect(() => call(8, 1e6)).toThrow(/stride 256/);
  });
});
