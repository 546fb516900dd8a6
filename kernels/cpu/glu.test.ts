import { describe, expect, test } from "bun:test";
import { floats, levels, opened, randomFloats } from "./library.ts";
import { largestError, run, runReference } from "./twins.ts";

/** exp is good to an ulp or two; sigmoid and tanh inherit it. */
const tolerance = 3e-6;

describe.each([...levels])("glu on %s", (level) => {
  test.each([
    ["silu", 0],
    ["gelu", 1],
    ["clamped", 2],
  ] as const)("%s", (_name, kind) => {
    for (const [rows, width] of [
      [1, 1],
      [3, 17],
      [2, 2880],
      [1, 5000],
    ] as const) {
      const both = randomFloats(rows * 2 * width, width);
      const y = floats(rows * width);
      const expected = floats(rows * width);
      const args = [rows, width, 2 * width, 2 * width, kind, 1.702, 7];
      const up = new Float32Array(both.buffer, 4 * width, both.length - width);
      opened(level, 2, () => run("glu", y, both, up, ...args));
      runReference("glu", expected, both, up, ...args);
      expect(largestError(y, expected)).toBeLessThan(tolerance);
    }
  });

  test("the clamped kind clamps up on both sides and gate only above", () => {
    const gate = floats(3);
    gate.set([-20, 20, 7]);
    const up = floats(3);
    up.set([-20, 20, 0]);
    const y = floats(3);
    opened(level, 1, () => run("glu", y, gate, up, 1, 3, 3, 3, 2, 1.702, 7));
    const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
    const expected = [-20 * sigmoid(-20 * 1.702) * -6, 7 * sigmoid(7 * 1.702) * 8, 7 * sigmoid(7 * 1.702)];
    for (let i = 0; i < 3; i++) expect(y[i]!).toBeCloseTo(expected[i]!, 4);
  });
});
