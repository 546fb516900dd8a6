import { describe, expect, test } from "bun:test";
import { floats, levels, opened, randomFloats } from "./library.ts";
import { largestError, run, runReference } from "./twins.ts";

/** exp is good to an ulp or two; sums of squares in 16 lanes. */
const tolerance = 3e-6;

describe.each([...levels])("gates on %s", (level) => {
  test.each([
    [1, 1, 1],
    [3, 2, 17],
    [2, 5, 128],
    [4, 1, 600],
  ])("rms_norm_gated, %i rows of %i heads of %i", (rows, heads, width) => {
    const [stride, offset] = [heads * width + 5, 3];
    const x = randomFloats(rows * heads * width, 1);
    const gate = randomFloats(rows * stride, 2);
    const w = randomFloats(width, 3);
    const [y, expected] = [floats(x.length), floats(x.length)];
    const sizes = [rows, heads, width, stride, offset, 1e-6];
    runReference("rms_norm_gated", expected, x, gate, w, ...sizes);
    opened(level, 2, () => {
      run("rms_norm_gated", y, x, gate, w, ...sizes);
      run("rms_norm_gated", x, x, gate, w, ...sizes);
    });
    expect(largestError(y, expected)).toBeLessThan(tolerance);
    expect(x).toEqual(y);
  });

  test.each([
    [1, 1, 1],
    [3, 4, 19],
    [2, 3, 256],
  ])("sigmoid_gate, %i rows of %i heads of %i beside their gates", (rows, heads, width) => {
    // [q | gate] per head
    const [stride, offset, apart] = [2 * heads * width + 2, width + 1, 2 * width];
    const x = randomFloats(rows * heads * width, 1);
    const gate = randomFloats(rows * stride, 2);
    const [y, expected] = [floats(x.length), floats(x.length)];
    const sizes = [rows, heads, width, stride, offset, apart];
    runReference("sigmoid_gate", expected, x, gate, ...sizes);
    opened(level, 2, () => {
      run("sigmoid_gate", y, x, gate, ...sizes);
      run("sigmoid_gate", x, x, gate, ...sizes);
    });
    expect(largestError(y, expected)).toBeLessThan(tolerance);
    expect(x).toEqual(y);
  });

  test.each([
    [1, 1],
    [3, 33],
    [5, 2048],
  ])("add_gated, %i rows of %i", (rows, width) => {
    const [base, x] = [randomFloats(rows * width, 1), randomFloats(rows * width, 2)];
    const gate = randomFloats(rows, 3);
    const [y, expected] = [floats(x.length), floats(x.length)];
    runReference("add_gated", expected, base, x, gate, rows, width);
    opened(level, 2, () => {
      run("add_gated", y, base, x, gate, rows, width);
      run("add_gated", base, base, x, gate, rows, width);
    });
    expect(largestError(y, expected)).toBeLessThan(tolerance);
    expect(base).toEqual(y);
  });
});

test("gates outside their rows are refused", () => {
  const f = floats(256);
  const call = (name: string, ...args: (number | Float32Array)[]) =>
    opened("plain", 1, () => run(name, ...args));
  expect(() => call("rms_norm_gated", f, f, f, f, 1, 2, 16, 33, 2, 1e-6)).toThrow(/gate inside its rows/);
  expect(() => call("sigmoid_gate", f, f, f, 1, 2, 16, 48, 17, 16)).toThrow(/inside rows of 48/);
  expect(() => call("sigmoid_gate", f, f, f, 1, 2, 16, 64, 0, 15)).toThrow(/15 apart/);
});
