import { describe, expect, test } from "bun:test";
import { floats, randomFloats } from "../cpu/library.ts";
import { largestError, runReference } from "../cpu/twins.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice } from "./library.ts";

/** Device exponentials err by some 2^-22 times the size of their argument, which is below 40 here. */
const tolerance = 2e-5;
const [alpha, limit] = [1.702, 7];

type Sizes = readonly [rows: number, width: number, gateStride: number, upStride: number];

function glu(gate: Float32Array, up: Float32Array, sizes: Sizes, kind: number): Float32Array {
  const count = sizes[0] * sizes[1];
  const y = deviceBytes(count * 4);
  check(cuda.psi_glu!(y, onDevice(gate), onDevice(up), ...sizes, kind, alpha, limit));
  return floatsFromDevice(y, count);
}

describe.each([0, 1, 2])("kind %i", (kind) => {
  test.each([
    [1, 1, 1, 1],
    [3, 5, 5, 7],
    [2, 512, 512, 512],
    [2, 513, 520, 1000],
    [3, 2880, 5760, 5760],
  ] as const)("%i rows of %i, strides %i and %i", (rows, width, gateStride, upStride) => {
    const sizes = [rows, width, gateStride, upStride] as const;
    const gate = randomFloats(rows * gateStride, 1);
    const up = randomFloats(rows * upStride, 2);
    const expected = floats(rows * width);
    runReference("glu", expected, gate, up, ...sizes, kind, alpha, limit);
    expect(largestError(glu(gate, up, sizes, kind), expected)).toBeLessThan(tolerance);
  });

  test("gate and up of one array, at an address that is not aligned", () => {
    const [rows, width] = [3, 7];
    const both = randomFloats(rows * 2 * width, 5);
    const expected = floats(rows * width);
    const y = deviceBytes(rows * width * 4);
    const base = onDevice(both);
    const sizes = [rows, width, 2 * width, 2 * width] as const;
    runReference("glu", expected, both, both.subarray(width), ...sizes, kind, alpha, limit);
    check(cuda.psi_glu!(y, base, (base + 4 * width) as never, ...sizes, kind, alpha, limit));
    expect(largestError(floatsFromDevice(y, rows * width), expected)).toBeLessThan(tolerance);
  });

  test("far values, and the same bits alone and among others", () => {
    const values = [-200, -88, -20, -1e-6, 0, 1e-6, 20, 88, 200, 1e30];
    const gate = floats(3 * values.length);
    for (let r = 0; r < 3; r++) gate.set(values, r * values.length);
    const up = floats(gate.length).fill(0.5);
    const width = values.length;
    const expected = floats(gate.length);
    runReference("glu", expected, gate, up, 3, width, width, width, kind, alpha, limit);
    const got = glu(gate, up, [3, width, width, width], kind);
    expect(largestError(got, expected)).toBeLessThan(tolerance);
    for (let r = 0; r < 3; r++) {
      const one = floats(width);
      one.set(values);
      const alone = glu(one, up, [1, width, width, width], kind);
      expect([...got.subarray(r * width, (r + 1) * width)]).toEqual([...alone]);
    }
  });
});

test("the clamped kind takes infinities; NaN stays where it is", () => {
  const gate = floats(4);
  gate.set([Infinity, 1, Number.NaN, 1]);
  const up = floats(4).fill(Infinity);
  const got = glu(gate, up, [1, 4, 4, 4], 0);
  expect(got[2]).toBeNaN();
  const clamped = glu(gate, up, [1, 4, 4, 4], 2);
  expect(clamped[0]).toBeCloseTo(7 * 8, 3);
  expect(clamped[3]).toBeCloseTo(8 / (1 + Math.exp(-alpha)), 4);
});

test("wrong strides and kinds are refused", () => {
  const some = deviceBytes(64);
  expect(() => check(cuda.psi_glu!(some, some, some, 1, 8, 7, 8, 0, 0, 0))).toThrow(/glu.*8.*7/);
  expect(() => check(cuda.psi_glu!(some, some, some, 1, 8, 8, 8, 3, 0, 0))).toThrow(/glu.*kind.*3/);
});
