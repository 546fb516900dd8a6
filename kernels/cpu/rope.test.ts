import { describe, expect, test } from "bun:test";
import { floats, levels, opened, randomFloats } from "./library.ts";
import { ints, largestError, run, runReference } from "./twins.ts";

/** Errors relative to 1 + |x|: two products of f32 sines good to 1e-7. Positions reach past the range of the quick path. */
const tolerance = 1e-6;

describe.each([...levels])("rope on %s", (level) => {
  test.each([
    [1, 64, 64],
    [0, 64, 64],
    [1, 80, 50],
    [0, 96, 32],
    [1, 34, 34],
  ])("neox %i, head %i, rotary %i", (neox, headDim, rotaryDims) => {
    const [heads, offset, positions] = [
      3,
      5,
      ints([0, 1, 77, 4095, 131_071, 999_983, 1_000_000, 16_777_217]),
    ];
    const stride = offset + heads * headDim + 2;
    const rows = positions.length;
    const invFreq = floats(rotaryDims / 2);
    for (let i = 0; i < invFreq.length; i++) invFreq[i] = 150000 ** ((-2 * i) / rotaryDims);
    const x = randomFloats(rows * stride, 9);
    const expected = floats(x.length);
    expected.set(x);
    const args = [rows, stride, offset, heads, headDim, rotaryDims, neox, 1.25];
    opened(level, 2, () => run("rope", x, positions, invFreq, ...args));
    runReference("rope", expected, positions, invFreq, ...args);
    expect(largestError(x, expected)).toBeLessThan(tolerance);
  });
});

test("a quarter turn moves the first of a pair to the second", () => {
  const x = floats(4);
  x.set([1, 2, 0, 0]);
  const invFreq = floats(2);
  invFreq.set([Math.PI / 2, 0]);
  opened("plain", 1, () => run("rope", x, ints([1]), invFreq, 1, 4, 0, 1, 4, 4, 1, 1));
  expect([...x].map((v) => Math.round(v * 1e6) / 1e6)).toEqual([-0, 2, 1, 0]);
});
