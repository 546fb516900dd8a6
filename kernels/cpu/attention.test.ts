import { describe, expect, test } from "bun:test";
import { bits, floats, levels, normalisedError, opened, randomFloats } from "./library.ts";
import { attend, type Case, cacheTypes, emptyCache, filledCache, plain, span, write } from "./paged.ts";
import { largestError } from "./twins.ts";

/**
 * Both sides read the same cache, so only f32 arithmetic differs. Scores here reach some hundreds: their f32 error, a few
 * 1e-5, passes through the exponential to the result.
 */
const tolerance = 1e-4;
/**
 * Squared error over squared result against an f32 cache, for scores of order one: about the square of the rounding
 * (2^-11, 2^-8, a 254th of the block's largest) times three for keys and values.
 */
const cacheTolerance = { f32: 0, f16: 3e-7, bf16: 2e-5, fp8: 2e-3, q8_0: 1e-4 } as const;

describe.each([...levels])("attention on %s", (level) => {
  test.each([
    ["f32", plain],
    ["f16", { ...plain, cacheType: "f16" }],
    ["bf16", { ...plain, cacheType: "bf16" }],
    ["fp8", { ...plain, cacheType: "fp8" }],
    ["q8_0", { ...plain, cacheType: "q8_0" }],
    ["sinks and a window", { ...plain, sinks: true, window: 50, heads: 8, kvHeads: 1 }],
    ["window over a chunk", { ...plain, cacheType: "f16", sinks: true, window: 128, pageSize: 64 }],
    ["soft cap", { ...plain, softcap: 5, headDim: 80, pageSize: 80 }],
    ["wide heads", { ...plain, headDim: 256, heads: 2, kvHeads: 1, pageSize: 128 }],
    ["widest heads", { ...plain, cacheType: "q8_0", headDim: 512, heads: 3, kvHeads: 1, pageSize: 16 }],
    ["many heads of one kv head", { ...plain, headDim: 32, heads: 40, kvHeads: 1, pageSize: 256 }],
    ["odd group", { ...plain, heads: 21, kvHeads: 3, headDim: 16 }],
    ["no group", { ...plain, cacheType: "q8_0", heads: 3, kvHeads: 3, headDim: 96 }],
  ] as [string, Case][])("%s", (_name, c) => {
    const cache = filledCache(c, [300, 131, 1], level);
    const queries = [...span(0, 0, 37), ...span(1, 100, 131), ...span(2, 0, 1), ...span(0, 255, 300)];
    const q = randomFloats(queries.length * c.heads * c.headDim, 77);
    const y = opened(level, 2, () => attend(c, cache, queries, q));
    expect(largestError(y, attend(c, cache, queries, q, true))).toBeLessThan(tolerance);
    const few = queries.slice(34, 37);
    const part = opened(level, 2, () => attend(c, cache, few, q));
    expect(largestError(part, attend(c, cache, few, q, true))).toBeLessThan(tolerance);
  });

  test.each(cacheTypes)("a cache of %s against one of f32", (cacheType) => {
    const c: Case = { ...plain, cacheType };
    const queries = span(0, 0, 200);
    const q = randomFloats(queries.length * c.heads * c.headDim, 3);
    const of = (c: Case) => {
      const cache = filledCache(c, [200], level, 0.1);
      return opened(level, 2, () => attend(c, cache, queries, q));
    };
    expect(normalisedError(of(c), of(plain))).toBeLessThanOrEqual(cacheTolerance[cacheType]);
  });

  test("a window of 128 sees the token 127 back and not the one 128 back", () => {
    const c: Case = { ...plain, heads: 1, kvHeads: 1, window: 128 };
    const cache = filledCache(c, [300], level);
    const q = randomFloats(c.headDim, 1);
    const at = (position: number) =>
      opened(level, 1, () => attend(c, cache, span(0, position, position + 1), q));
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

  test.each([
    ["f32, causal", plain, 1],
    ["f16, groups of 8", { ...plain, cacheType: "f16", heads: 8, kvHeads: 1, sinks: true }, 1],
    ["bf16, window", { ...plain, cacheType: "bf16", window: 40 }, 2],
    ["f16, window over a chunk", { ...plain, cacheType: "f16", window: 128 }, 2],
    ["f32, no group", { ...plain, heads: 2 }, 2],
  ] as [string, Case, number][])(
    "values out of a token's sight do not reach it, infinite or NaN: %s",
    (_name, c, threads) => {
      const length = 290;
      const width = 2 * c.kvHeads * c.headDim;
      const queries = span(0, 0, length);
      const q = randomFloats(length * c.heads * c.headDim, 5);
      const rows = randomFloats(length * width, 6);
      const before = floats(rows.length);
      before.set(rows);
      // one key and value of the whole row each: of a token inside a chunk, and of the first of a chunk
      for (const [position, value] of [
        [70, Number.POSITIVE_INFINITY],
        [128, Number.NaN],
        [200, Number.NEGATIVE_INFINITY],
      ] as const) {
        rows.fill(value, position * width + width / 2, (position + 1) * width);
      }
      const of = (kv: typeof rows) => {
        const cache = emptyCache(c, [length]);
        return opened(level, threads, () => {
          write(c, cache, queries, kv);
          return attend(c, cache, queries, q);
        });
      };
      const [clean, dirty] = [of(before), of(rows)];
      const out = c.heads * c.headDim;
      const sees = (t: number) => [70, 128, 200].some((p) => p <= t && (c.window === 0 || t - p < c.window));
      let seen = 0;
      for (let t = 0; t < length; t++) {
        const [was, is] = [clean, dirty].map((y) => bits(y.slice(t * out, (t + 1) * out)));
        if (sees(t)) seen += Number(dirty.slice(t * out, (t + 1) * out).some((x) => !Number.isFinite(x)));
        else expect(`${t} ${is}`).toBe(`${t} ${was}`);
      }
      expect(seen).toBeGreaterThan(80);
    },
  );

  test("a sink of -inf changes nothing, a great one leaves little", () => {
    const cache = filledCache(plain, [150], level);
    const q = randomFloats(plain.heads * plain.headDim, 1);
    const y = (sinks: Case["sinks"]) =>
      opened(level, 2, () => attend({ ...plain, sinks }, cache, span(0, 149, 150), q));
    expect(bits(y(Number.NEGATIVE_INFINITY))).toEqual(bits(y(false)));
    expect(Math.max(...y(1e6).map(Math.abs))).toBe(0);
  });

  test("no finite score: zero with a sink; a NaN stays one", () => {
    const cache = emptyCache(plain, [150]);
    const width = plain.kvHeads * plain.headDim;
    const rows = floats(150 * 2 * width);
    for (let i = 0; i < rows.length; i++) rows[i] = i % (2 * width) < width ? Number.NEGATIVE_INFINITY : 1;
    const q = floats(plain.heads * plain.headDim).fill(1);
    const y = (sinks: Case["sinks"]) =>
      opened(level, 1, () => attend({ ...plain, sinks }, cache, span(0, 149, 150), q));
    opened(level, 1, () => write(plain, cache, span(0, 0, 150), rows));
    expect([...new Set(y(0.5))]).toEqual([0]);
    q.fill(Number.NaN);
    expect(y(0.5).every(Number.isNaN)).toBe(true);
  });
});

test("a position without a page is refused; pages that no window reaches may lack", () => {
  const c: Case = { ...plain, window: 20 };
  const cache = filledCache(c, [100], "plain");
  const q = randomFloats(c.heads * c.headDim, 1);
  const at = (c: Case) => opened("plain", 1, () => attend(c, cache, span(0, 99, 100), q));
  const before = at(c);
  cache.table[1] = -1;
  expect(at(c)).toEqual(before);
  expect(() => at(plain)).toThrow(/page 1/);
});
