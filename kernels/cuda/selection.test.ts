import { describe, expect, test } from "bun:test";
import { floats, randomFloats } from "../cpu/library.ts";
import { ints, largestError, runReference } from "../cpu/twins.ts";
import { check, cuda, deviceBytes, floatsFromDevice, intsFromDevice, onDevice } from "./library.ts";

function argmax(x: Float32Array, rows: number, width: number): Int32Array {
  const ids = onDevice(ints(Array(rows).fill(-1)));
  check(cuda.psi_argmax!(ids, onDevice(x), rows, width));
  return intsFromDevice(ids, rows);
}
function topK(x: Float32Array, rows: number, width: number, k: number) {
  const [values, ids] = [deviceBytes(rows * k * 4), onDevice(ints(Array(rows * k).fill(-1)))];
  check(cuda.psi_top_k!(values, ids, onDevice(x), rows, width, k));
  return { values: floatsFromDevice(values, rows * k), ids: intsFromDevice(ids, rows * k) };
}
function logSumExp(x: Float32Array, rows: number, width: number): Float32Array {
  const y = deviceBytes(rows * 4);
  check(cuda.psi_log_sum_exp!(y, onDevice(x), rows, width));
  return floatsFromDevice(y, rows);
}

function expectTopK(x: Float32Array, rows: number, width: number, k: number): void {
  const [values, ids] = [floats(rows * k), ints(Array(rows * k).fill(-1))];
  runReference("top_k", values, ids, x, rows, width, k);
  const got = topK(x, rows, width, k);
  expect(got.ids).toEqual(ids);
  expect(got.values).toEqual(values);
}

/** Rows rounded to few values, so that ties are everywhere. */
function tiedRows(rows: number, width: number): Float32Array {
  const x = randomFloats(rows * width, width);
  for (let i = 0; i < x.length; i++) x[i] = Math.round(x[i]!);
  return x;
}

describe("against the reference", () => {
  test.each([1, 15, 33, 1000, 1024, 1025, 6144, 20_001])("rows of %i", (width) => {
    const rows = 3;
    const tied = tiedRows(rows, width);
    const plain = randomFloats(rows * width, width + 1);
    for (const x of [tied, plain]) {
      const expected = ints(Array(rows).fill(-1));
      runReference("argmax", expected, x, rows, width);
      expect(argmax(x, rows, width)).toEqual(expected);
      expectTopK(x, rows, width, Math.min(width, 40));
      const sums = floats(rows);
      runReference("log_sum_exp", sums, x, rows, width);
      expect(largestError(logSumExp(x, rows, width), sums)).toBeLessThan(1e-6);
    }
  });

  test("k up to 1024, with more candidates than are sorted at once", () => {
    for (const k of [1, 512, 1024]) expectTopK(randomFloats(9000, k), 1, 9000, k);
    // all high logits with one thread, all logits alike, and rising ones
    const width = 9000;
    const clustered = randomFloats(width, 5);
    for (let i = 4096; i < 8200; i++) clustered[i] = 100 + (i % 16);
    const rising = floats(width).map((_, i) => i / 7) as Float32Array<ArrayBuffer>;
    for (const x of [clustered, floats(width).fill(-2.5), rising]) {
      for (const k of [3, 1000]) expectTopK(x, 1, width, k);
    }
  });
});

test("a row gives the same alone and among others", () => {
  const [rows, width, k] = [4, 5003, 20];
  const x = randomFloats(rows * width, 8);
  const together = { ...topK(x, rows, width, k), sums: logSumExp(x, rows, width) };
  for (let r = 0; r < rows; r++) {
    const one = floats(width);
    one.set(x.subarray(r * width, (r + 1) * width));
    const alone = topK(one, 1, width, k);
    expect([...alone.ids]).toEqual([...together.ids.subarray(r * k, (r + 1) * k)]);
    expect([...alone.values]).toEqual([...together.values.subarray(r * k, (r + 1) * k)]);
    expect(logSumExp(one, 1, width)[0]).toBe(together.sums[r]!);
  }
});

test("NaN never wins and counts as -inf, zeros are alike, the lowest place wins ties", () => {
  const { NaN: none, NEGATIVE_INFINITY: low, POSITIVE_INFINITY: high } = Number;
  const width = 2050;
  const x = floats(width).fill(1);
  x[0] = none;
  x[33] = none;
  expect([...argmax(x, 1, width)]).toEqual([1]);
  expectTopK(x, 1, width, 5);
  for (const nothing of [none, low]) {
    expect([...argmax(x.fill(nothing), 1, width)]).toEqual([0]);
    expectTopK(x, 1, width, 7);
  }
  for (const few of [
    [0, -0, none, low, 0, -1, high, none],
    [none, none, low, none, low, none, none, none],
    [-0, 0, -0, 0, 0, 0, -0, -0],
  ]) {
    const row = floats(8);
    row.set(few);
    expectTopK(row, 1, 8, 8);
    const expected = ints([-1]);
    runReference("argmax", expected, row, 1, 8);
    expect(argmax(row, 1, 8)).toEqual(expected);
  }
});

test("log_sum_exp of infinities and NaN", () => {
  const { NEGATIVE_INFINITY: low, POSITIVE_INFINITY: high, NaN: none } = Number;
  for (const width of [3, 40, 9000]) {
    const of = (...values: number[]) => {
      const x = floats(width).fill(low);
      x.set(values, width - 2);
      return logSumExp(x, 1, width)[0]!;
    };
    expect(of()).toBe(low);
    expect(of(1000)).toBe(1000);
    expect(of(-1000, -1000)).toBeCloseTo(-1000 + Math.log(2), 3);
    expect(of(high, 1)).toBe(high);
    expect(of(none, 1)).toBeNaN();
  }
});

test("sizes out of contract are refused", () => {
  const some = deviceBytes(64);
  expect(() => check(cuda.psi_top_k!(some, some, some, 1, 4, 5))).toThrow(/top_k.*4.*5/);
  expect(() => check(cuda.psi_top_k!(some, some, some, 1, 4000, 1025))).toThrow(/top_k.*1024.*1025/);
  expect(() => check(cuda.psi_argmax!(some, some, 1, 0))).toThrow(/argmax/);
  expect(() => check(cuda.psi_log_sum_exp!(some, null, 1, 4))).toThrow(/log_sum_exp/);
});
