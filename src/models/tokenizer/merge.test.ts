import { expect, test } from "bun:test";
import { type MergeRules, mergeSymbols } from "./merge.ts";

/** The definition: find the lowest rank from the left, merge it, start again. */
function mergePlainly(symbols: number[], rules: MergeRules): number[] {
  const left = [...symbols];
  for (;;) {
    let best = -1;
    let bestRule = -1;
    for (let i = 0; i + 1 < left.length; i++) {
      const rule = rules.find(left[i] ?? 0, left[i + 1] ?? 0);
      if (rule < 0) continue;
      if (bestRule < 0 || (rules.rank[rule] ?? 0) < (rules.rank[bestRule] ?? 0)) [best, bestRule] = [i, rule];
    }
    if (best < 0) return left;
    left.splice(best, 2, rules.result[bestRule] ?? 0);
  }
}

test("merging equals its definition for short and long pieces, ties included", () => {
  let state = 1;
  const next = (below: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return (state >>> 8) % below;
  };
  for (let round = 0; round < 200; round++) {
    const count = 3 + next(40);
    const pairs = new Map<number, number>();
    // Rules share ranks, as tokens with equal scores do.
    const rank = Int32Array.from({ length: count }, () => next(count));
    const result = Int32Array.from({ length: count }, (_, i) => 3 + i);
    for (let rule = 0; rule < count; rule++) pairs.set(next(3 + rule) * 100 + next(3 + rule), rule);
    const rules = {
      find: (left: number, right: number) => pairs.get(left * 100 + right) ?? -1,
      rank,
      result,
    };
    for (const length of [0, 1, 2, 7, 40, 41, 150]) {
      const symbols = Array.from({ length }, () => next(3));
      const merged = Int32Array.from(symbols);
      const left = mergeSymbols(merged, length, rules);
      expect(Array.from(merged.subarray(0, left))).toEqual(mergePlainly(symbols, rules));
    }
  }
});
