import { describe, expect, test } from "bun:test";
import { bits, floats, levels, opened, randomFloats } from "./library.ts";
import { ints, largestError, run, runReference } from "./twins.ts";

function blank(count: number): Int32Array {
  return ints(Array(count).fill(-1));
}

/** Rows rounded to few values, so that ties are everywhere. */
function tiedRows(rows: number, width: number): Float32Array {
  const x = randomFloats(rows * width, width);
  for (let i = 0; i < x.length; i++) x[i] = Math.round(x[i]!);
  return x;
}

describe.each([...levels])("selection on %s", (level) => {
  test.each([1, 15, 16, 17, 63, 64, 65, 1000, 6144])("rows of %i", (width) => {
    const rows = 3;
    const x = tiedRows(rows, width);
    const [ids, expected] = [blank(rows), blank(rows)];
    const k = Math.min(width, 40);
    const [values, valuesExpected] = [floats(rows * k), floats(rows * k)];
    const [places, placesExpected] = [blank(rows * k), blank(rows * k)];
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

  test("a wide row gives the same on one thread, on some and among others", () => {
    const [width, k] = [60_003, 1100];
    const x = tiedRows(4, width);
    x[5] = Number.NaN;
    x[59_000] = x[7]!;
    const of = (threads: number, rows: number) => {
      const [ids, values, places, sums] = [blank(4), floats(4 * k), blank(4 * k), floats(4)];
      const clean = randomFloats(rows * width, 3);
      opened(level, threads, () => {
        run("argmax", ids, x, rows, width);
        run("top_k", values, places, x, rows, width, k);
        run("log_sum_exp", sums, clean, rows, width);
      });
      return [ids[0], [...values.subarray(0, k)], [...places.subarray(0, k)], bits(sums)[0]];
    };
    const alone = of(1, 1);
    expect(of(3, 1)).toEqual(alone);
    expect(of(2, 4)).toEqual(alone);
    const [ids, values, places] = [blank(1), floats(k), blank(k)];
    runReference("argmax", ids, x, 1, width);
    runReference("top_k", values, places, x, 1, width, k);
    expect(alone.slice(0, 3)).toEqual([ids[0], [...values], [...places]]);
  });

  test("NaN never wins, the lowest place does on ties", () => {
    const x = floats(140).fill(1);
    x[0] = Number.NaN;
    x[33] = Number.NaN;
    const ids = blank(1);
    const [values, places] = [floats(3), blank(3)];
    opened(level, 1, () => {
      run("argmax", ids, x, 1, 140);
      run("top_k", values, places, x, 1, 140, 3);
    });
    expect(ids[0]).toBe(1);
    expect([...places]).toEqual([1, 2, 3]);
    opened(level, 2, () => {
      for (const width of [5, 70, 140]) {
        for (const nothing of [Number.NaN, Number.NEGATIVE_INFINITY]) {
          run("argmax", ids, x.fill(nothing), 1, width);
          expect(ids[0]).toBe(0);
        }
      }
    });
  });

  test("log_sum_exp of infinities and NaN", () => {
    const { NEGATIVE_INFINITY: low, POSITIVE_INFINITY: high, NaN: none } = Number;
    for (const width of [3, 40, 9000]) {
      const of = (...values: number[]) => {
        const x = floats(width).fill(low);
        x.set(values, width - 2);
        const y = floats(1);
        opened(level, 2, () => run("log_sum_exp", y, x, 1, width));
        return y[0]!;
      };
      expect(of()).toBe(low);
      expect(of(1000)).toBe(1000);
      expect(of(-1000, -1000)).toBeCloseTo(-1000 + Math.log(2), 3);
      expect(of(high, 1)).toBe(high);
      expect(of(none, 1)).toBeNaN();
    }
  });
});

test("k beyond the width is refused", () => {
  const x = floats(4);
  expect(() => opened("plain", 1, () => run("top_k", x, ints([0]), x, 1, 4, 5))).toThrow(/top_k.*4/);
});
