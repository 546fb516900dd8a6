/** Optimiser steps, sums to one number and casts on Metal against the references. */
import { describe, expect, test } from "bun:test";
import { floats } from "../cpu/library.ts";
import { path } from "./library.ts";
import {
  BF16,
  expectReference,
  expectRefusals,
  F32,
  runMetal,
  scratch,
  small,
  type TrainingCall,
} from "./training_calls.ts";

const count = 333;
const one = Float32Array.of(0.9);
const rates = Float64Array.of(0.01, 1.5, 2.5);

const calls: readonly TrainingCall[] = [
  {
    name: "cast",
    args: () => [new Uint16Array(count), small(count), F32, BF16, count],
    outputs: 1,
    sizes: [4],
  },
  {
    name: "cast",
    args: () => [floats(count), new Uint16Array(count).map((_, i) => 0x3f00 + i), BF16, F32, count],
    outputs: 1,
    sizes: [4],
  },
  { name: "fill", args: () => [floats(count), F32, count, 0.25], outputs: 1, sizes: [2], type: 1 },
  { name: "sum", args: () => [floats(1), small(9000), F32, 9000, 0.5], outputs: 1, sizes: [3], type: 2 },
  { name: "spread", args: () => [floats(count), small(1), F32, count, 0.3], outputs: 1, sizes: [3], type: 2 },
  {
    name: "sum_squares",
    args: () => [new Float64Array(1), small(9000), scratch(24), F32, 9000, 24],
    outputs: 1,
    sizes: [4],
    type: 3,
  },
  {
    name: "clip_factor",
    args: () => [floats(1), new Float64Array(1), Float64Array.of(3.1, 4.3, 1e-9), small(2), 3, 2, 1.5],
    outputs: 2,
    sizes: [4, 5, 6],
  },
  {
    name: "adam",
    args: () => [
      ...[small(count, 1), small(count, 2), small(count, 3).map(Math.abs), small(count, 4), one, rates],
      ...[1, count, 0.9, 0.99, 1e-8, 0.1],
    ],
    outputs: 3,
    sizes: [7],
  },
  {
    name: "adam",
    args: () => [
      ...[small(count, 1), small(count, 2), small(count, 3).map(Math.abs), small(count, 4), one, rates],
      ...[0, count, 0.9, 0.99, 1e-8, 0.1],
    ],
    outputs: 3,
    sizes: [7],
  },
  {
    name: "sgd",
    args: () => [small(count, 1), small(count, 2), small(count, 3), one, rates, count, 0.9, 0.1],
    outputs: 2,
    optional: [1],
    sizes: [5],
  },
  {
    name: "sgd",
    args: () => [small(count, 1), null, small(count, 3), one, rates, count, 0, 0.1],
    outputs: 1,
    sizes: [5],
  },
  ...[0, 1].map(
    (nesterov): TrainingCall => ({
      name: "momentum",
      args: () => [floats(count), small(count, 2), small(count, 3), one, rates, nesterov, count],
      outputs: 2,
      sizes: [6],
    }),
  ),
  { name: "unit_norm", args: () => [floats(300), small(300), 3, 100, 1e-7], outputs: 1, sizes: [2, 3] },
  {
    name: "muon_update",
    args: () => [small(count, 1), small(count, 2), one, rates, count, 1.5, 0.1],
    outputs: 1,
    sizes: [4],
  },
];
const titled = calls.map((c, i) => [`${c.name} (${i})`, c] as const);

/** Sum of squares of `x`, and the norm and factor that clip it at `limit`. */
function clipped(x: Float32Array, limit: number): readonly [number, number, number] {
  const bytes = 8 * Math.ceil(x.length / 4096);
  const zero = new Float64Array(1);
  const [squares] = runMetal("sum_squares", [zero, x, scratch(bytes), F32, x.length, bytes], 1);
  const [factor, norm] = runMetal("clip_factor", [floats(1), zero, squares!, null, 1, 0, limit], 2);
  const number = (v: ArrayBufferView | undefined): number => (v as Float64Array)[0]!;
  return [number(squares), number(norm), number(factor)];
}

describe.skipIf(!path)("optimisers and sums on Metal", () => {
  test.each(titled)("%s is the reference's", (_title, call) => expectReference(call));
  test.each(titled)("%s refuses what it cannot do", (_title, call) => expectRefusals(call));

  test("norms of numbers of any size are f64's, without overflow or loss", () => {
    for (const size of [1e-38, 1e-30, 1, 1e10, 1e30, 3e38]) {
      const x = small(5000, 9).map((v) => v * Math.fround(size / 2));
      const want = x.reduce((sum, v) => sum + v * v, 0);
      const [squares, norm, factor] = clipped(x, 1);
      expect(Math.abs(squares / want - 1)).toBeLessThan(1e-13);
      expect(Math.abs(norm / Math.sqrt(want) - 1)).toBeLessThan(1e-13);
      expect(Math.abs(factor / Math.fround(Math.min(1, 1 / Math.sqrt(want))) - 1)).toBeLessThan(1e-6);
    }
  });

  test("nothing is 0 and clips nothing; what is no number stays none; no limit clips nothing", () => {
    expect(clipped(floats(300), 1)).toEqual([0, 0, 1]);
    expect(clipped(small(300), Number.POSITIVE_INFINITY)[2]).toBe(1);
    expect(clipped(small(300).with(7, Number.NaN), 1)[0]).toBeNaN();
    const [, norm, factor] = clipped(small(300).with(7, Number.POSITIVE_INFINITY), 1);
    expect(Number.isFinite(norm)).toBeFalse();
    expect(factor).toBeNaN();
  });
});
