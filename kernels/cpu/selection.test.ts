import { describe, expect, test } from "bun:test";
import { floats, levels, opened, randomFloats } from "./library.ts";
import { ints, largestError, run, runReference } from "./twins.ts";

describe.each([...levels])("selection on %s", (level) => {
  test.each([1, 15, 16, 17, 1000, 6144])("argmax, top_k and log_sum_exp of rows of %i", (width) => {
    const rows = 3;
    const x = randomFloats(rows * width, width);
    // Ties: rounded to few values.
    for (let i = 0; i < width; i++) x[i] = Math.round(x[i]!);
    const ids = ints([0, 0, 0]);
    const expected = ints([0, 0, 0]);
    const k = Math.min(width, 40);
    const [values, valuesExpected] = [floats(rows * k), floats(rows * k)];
    const [places, placesExpected] = [ints(Array(rows * k).fill(-1)), ints(Array(rows * k).fill(-1))];
    const [sums, sumsExpected] = [floats(rows), floats(rows)];
    opened(level, 2, () => {
      run("argmax", ids, x, rows, width);
      run("top_k", values, places, x, rows, width, k);
      run("log_sum_exp", sums, x, rows, width);
    });
    runReference("argmax", expected, x, rows, width);
    runReference("top_k", valuesExpected, placesExpected, x, rows, width, k);
    runReference("log_sum_exp", sumsExpected, x, rows, width);
    expect(ids).toEqual(expected);
    expect(values).toEqual(valuesExpected);
    expect(places).toEqual(placesExpected);
    expect(largestError(sums, sumsExpected)).toBeLessThan(1e-6);
  });

  test("NaN never wins, the lowest place does on ties", () => {
    const x = floats(40).fill(1);
    x[0] = Number.NaN;
    x[33] = Number.NaN;
    const ids = ints([-1]);
    const [values, places] = [floats(3), ints([0, 0, 0])];
    opened(level, 1, () => {
      run("argmax", ids, x, 1, 40);
      run("top_k", values, places, x, 1, 40, 3);
    });
    expect(ids[0]).toBe(1);
    expect([...places]).toEqual([1, 2, 3]);
  });
});

test("k beyond the width is refused", () => {
  const x = floats(4);
  expect(() => opened("plain", 1, () => run("top_k", x, ints([0]), x, 1, 4, 5))).toThrow(/top_k.*4/);
});
