import { describe, expect, test } from "bun:test";
import { floats, levels, opened, randomFloats } from "./library.ts";
import { ints, largestError, run, runReference } from "./twins.ts";

const tolerance = 3e-6;

describe.each([...levels])("router and moe_combine on %s", (level) => {
  test.each([
    [1, 1],
    [1, 0],
    [2, 1],
    [2, 0],
    [3, 0],
  ])("mode %i, normalize %i", (mode, normalize) => {
    for (const [tokens, experts, used] of [
      [1, 1, 1],
      [5, 32, 4],
      [3, 127, 8],
    ] as const) {
      const logits = randomFloats(tokens * experts, experts);
      const bias = randomFloats(experts, 4);
      for (const b of mode === 3 ? [null] : [bias, null]) {
        const [ids, idsExpected] = [ints(Array(tokens * used).fill(-1)), ints(Array(tokens * used).fill(-1))];
        const [w, expected] = [floats(tokens * used), floats(tokens * used)];
        const args = [tokens, experts, used, mode, normalize, 2.5];
        opened(level, 2, () => run("router", ids, w, logits, b, null, ...args));
        runReference("router", idsExpected, expected, logits, b, null, ...args);
        expect(ids).toEqual(idsExpected);
        expect(largestError(w, expected)).toBeLessThan(tolerance);
      }
    }
  });

  test("ties take the lower index", () => {
    const ids = ints([9, 9, 9]);
    const w = floats(3);
    opened(level, 1, () => run("router", ids, w, floats(8), null, null, 1, 8, 3, 3, 0, 1));
    expect([...ids]).toEqual([0, 1, 2]);
    expect(w[0]).toBeCloseTo(1 / 3, 6);
  });

  test("experts without a number are chosen last, each once", () => {
    const ids = ints([9, 9, 9, 9]);
    const w = floats(4);
    const logits = floats(4);
    logits.set([Number.NaN, 1, Number.NaN, 2]);
    opened(level, 1, () => run("router", ids, w, logits, null, null, 1, 4, 4, 3, 0, 1));
    expect([...ids]).toEqual([3, 1, 0, 2]);
  });

  test("weights of next to nothing are divided by 2^-14, not by their sum", () => {
    const logits = floats(2).fill(-20);
    const w = floats(2);
    opened(level, 1, () => run("router", ints([0, 0]), w, logits, null, null, 1, 2, 2, 2, 1, 1));
    const p = 1 / (1 + Math.exp(20));
    expect(w[0]! / (p * 2 ** 14)).toBeCloseTo(1, 5);
  });

  test("combine", () => {
    const [tokens, used, width] = [3, 4, 37];
    const x = randomFloats(tokens * used * width, 2);
    const weights = randomFloats(tokens * used, 3);
    const [y, expected] = [floats(tokens * width), floats(tokens * width)];
    opened(level, 2, () => run("moe_combine", y, x, weights, tokens, used, width));
    runReference("moe_combine", expected, x, weights, tokens, used, width);
    expect(largestError(y, expected)).toBeLessThan(tolerance);
  });
});
