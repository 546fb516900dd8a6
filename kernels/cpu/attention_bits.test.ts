import { describe, expect, test } from "bun:test";
import { bits, floats, levels, opened, randomFloats } from "./library.ts";
import { attend, type Case, emptyCache, filledCache, plain, span, write } from "./paged.ts";

/** Lengths of the steps in which a sequence is read: prompts at once, in pieces, and token by token. */
const plans: readonly (readonly number[])[] = [
  [290],
  [128, 162],
  [1, 5, 31, 32, 33, 128, 60],
  [200, ...Array(90).fill(1)],
  Array(290).fill(1),
];

describe.each([...levels])("bits of attention on %s", (level) => {
  test.each([
    ["f32, pages across chunks", { ...plain, softcap: 3, pageSize: 48 }],
    ["f16, groups of 8, sinks", { ...plain, cacheType: "f16", heads: 8, kvHeads: 1, sinks: true }],
    ["bf16, window", { ...plain, cacheType: "bf16", heads: 6, window: 100, pageSize: 16 }],
    ["q8_0, no group", { ...plain, cacheType: "q8_0", heads: 2, pageSize: 128 }],
    ["f16, groups of 40", { ...plain, cacheType: "f16", heads: 40, kvHeads: 1, headDim: 16, pageSize: 256 }],
  ] as [string, Case][])("the same in every plan of steps: %s", (_name, c) => {
    const length = 290;
    const [width, kvWidth] = [c.heads * c.headDim, 2 * c.kvHeads * c.headDim];
    const q = randomFloats(length * width, 5);
    const kv = randomFloats(length * kvWidth, 6);
    const results = plans.map((plan, i) =>
      opened(level, 1 + (i % 2), () => {
        const cache = emptyCache(c, [length]);
        const y = floats(length * width);
        let from = 0;
        for (const count of plan) {
          const tokens = span(0, from, from + count);
          const rows = floats(count * kvWidth);
          rows.set(kv.subarray(from * kvWidth, (from + count) * kvWidth));
          const queries = floats(count * width);
          queries.set(q.subarray(from * width, (from + count) * width));
          write(c, cache, tokens, rows);
          y.set(attend(c, cache, tokens, queries), from * width);
          from += count;
        }
        return y;
      }),
    );
    for (const y of results) expect(Bun.hash(y)).toBe(Bun.hash(results[0]!));
    expect(results[0]!.some(Number.isNaN)).toBe(false);
  });

  test("a token's bits do not depend on its company or on threads", () => {
    const c: Case = { ...plain, cacheType: "f16", heads: 8, sinks: true };
    const cache = filledCache(c, [400, 200], level);
    const queries = [...span(0, 300, 340), ...span(1, 10, 30)];
    const width = c.heads * c.headDim;
    const q = randomFloats(queries.length * width, 5);
    const together = opened(level, 2, () => attend(c, cache, queries, q));
    for (const threads of [1, 2, 5]) {
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
});
