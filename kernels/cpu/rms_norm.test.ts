import { describe, expect, test } from "bun:test";
import { floats, levels, opened, randomFloats } from "./library.ts";
import { largestError, run, runReference } from "./twins.ts";

/** f32 sums of some thousand squares in 16 lanes against f64. */
const tolerance = 2e-6;
const eps = 1e-5;

describe.each([...levels])("rms_norm on %s", (level) => {
  test.each([
    [1, 1],
    [3, 15],
    [2, 16],
    [5, 33],
    [7, 2880],
  ])("%i rows of %i", (rows, width) => {
    const x = randomFloats(rows * width, width);
    const w = randomFloats(width, 7);
    for (const weight of [w, null]) {
      const y = floats(rows * width);
      const expected = floats(rows * width);
      opened(level, 2, () => run("rms_norm", y, x, weight, rows, width, 0, 1, width, eps));
      runReference("rms_norm", expected, x, weight, rows, width, 0, 1, width, eps);
      expect(largestError(y, expected)).toBeLessThan(tolerance);
    }
  });

  test("heads inside rows: only the chosen columns change", () => {
    const [rows, stride, offset, groups, width] = [3, 100, 4, 2, 40];
    const x = randomFloats(rows * stride, 3);
    const y = floats(x.length);
    y.set(x);
    const expected = floats(x.length);
    expected.set(x);
    const w = randomFloats(width, 5);
    opened(level, 1, () => run("rms_norm", y, y, w, rows, stride, offset, groups, width, eps));
    runReference("rms_norm", expected, expected, w, rows, stride, offset, groups, width, eps);
    expect(largestError(y, expected)).toBeLessThan(tolerance);
    expect(y[0]).toBe(x[0]!);
    expect(y[stride - 1]).toBe(x[stride - 1]!);
  });

  test("add_rms_norm equals add, then rms_norm, bit for bit", () => {
    const [rows, width] = [5, 130];
    const x = randomFloats(rows * width, 11);
    const delta = randomFloats(rows * width, 12);
    const w = randomFloats(width, 13);
    const [sum, y, sumApart, apart] = [0, 1, 2, 3].map(() => floats(rows * width)) as [
      Float32Array,
      Float32Array,
      Float32Array,
      Float32Array,
    ];
    opened(level, 2, () => {
      run("add_rms_norm", sum, y, x, delta, w, rows, width, eps);
      run("add", sumApart, x, delta, rows * width);
      run("rms_norm", apart, sumApart, w, rows, width, 0, 1, width, eps);
    });
    expect(y).toEqual(apart);
    expect(sum).toEqual(sumApart);
  });
});

test("groups outside the rows are refused", () => {
  const x = floats(64);
  expect(() => opened("plain", 1, () => run("rms_norm", x, x, null, 1, 64, 1, 1, 64, eps))).toThrow(
    /rms_norm/,
  );
});
