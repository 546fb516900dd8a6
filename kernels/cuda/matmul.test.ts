import type { Pointer } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { type DType, dtypes } from "../../src/core/dtype.ts";
import { bits, normalisedError, PACKED, randomFloats, randomWeights } from "../cpu/library.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice, onFibers } from "./library.ts";
import {
  fileValues,
  inTwoParts,
  packedOnDevice,
  roundedBytes,
  roundedTypes,
  roundToBf16,
} from "./weights.ts";

/** Squared error of f32 sums over rounded inputs: tensor cores cut below the last bit, a few 1e-7 of the largest sum. */
const SUMS = 1e-11;

interface Matrix {
  readonly dtype: DType;
  readonly outputs: number;
  readonly columns: number;
  readonly file: Uint8Array;
  readonly packed: Pointer;
}

function matrix(dtype: DType, outputs: number, columns: number): Matrix {
  const file = randomWeights(dtype, outputs, columns, outputs + columns);
  return { dtype, outputs, columns, file, packed: packedOnDevice(dtype, file, outputs, columns) };
}

/** y [rows, outputs] of x [rows, columns]; `shift` bytes before x in device memory. */
function product(m: Matrix, x: Float32Array, bias: Float32Array | null, shift = 0): Float32Array {
  const rows = x.length / m.columns;
  const y = onDevice(new Float32Array(Math.max(rows * m.outputs, 512)).fill(Number.NaN));
  const shifted = new Float32Array(Math.max(x.length + shift / 4, 512));
  shifted.set(x, shift / 4);
  const at = ((onDevice(shifted) as number) + shift) as Pointer;
  const bytes = roundedBytes(m.dtype, rows, m.columns) + 64;
  const inputs = [at, m.packed, bias && onDevice(bias), deviceBytes(bytes)];
  const code = dtypes[m.dtype].id | PACKED;
  check(cuda.psi_matmul!(y, ...inputs, rows, m.outputs, m.columns, code, bytes));
  return floatsFromDevice(y, rows * m.outputs);
}

/** What rounding leaves of x, rounded, where the type's products add it. */
function rests(dtype: DType, x: Float32Array, rounded: Float32Array): Float32Array | null {
  return inTwoParts(dtype) ? roundToBf16(x.map((v, i) => v - rounded[i]!)) : null;
}

/**
 * The sums in their order: segments of ceil(units / 8) units of 64 columns, each from 0, then one after the other; in a
 * unit x in its parts, one after the other.
 */
function expected(m: Matrix, x: Float32Array, bias: Float32Array | null): Float32Array {
  const w = roundToBf16(fileValues(m.dtype, m.file, m.outputs, m.columns));
  const xs = roundToBf16(x);
  const parts = [xs, rests(m.dtype, x, xs)].filter((p) => p !== null);
  const rows = x.length / m.columns;
  const segment = Math.ceil(Math.ceil(m.columns / 64) / 8) * 64;
  const y = new Float32Array(rows * m.outputs);
  for (let r = 0; r < rows; r++)
    for (let n = 0; n < m.outputs; n++) {
      let total = 0;
      for (let first = 0; first < m.columns; first += segment) {
        let sum = 0;
        for (let unit = first; unit < Math.min(first + segment, m.columns); unit += 64)
          for (const part of parts)
            for (let k = unit; k < Math.min(unit + 64, m.columns); k++)
              sum = Math.fround(sum + Math.fround(part[r * m.columns + k]! * w[n * m.columns + k]!));
        total = first === 0 ? sum : Math.fround(total + sum);
      }
      y[r * m.outputs + n] = bias ? total + bias[n]! : total;
    }
  return y;
}

/** Bit for bit on fibers, whose products add one column after the other; a device adds 16 its own way. */
function expectSums(got: Float32Array, want: Float32Array): void {
  if (onFibers) expect(bits(got)).toEqual(bits(want));
  else expect(normalisedError(got, want)).toBeLessThan(SUMS);
}

const first = (m: Matrix, x: Float32Array, rows: number) => x.slice(0, rows * m.columns);

describe("every type, every kernel", () => {
  for (const dtype of roundedTypes) {
    const sizes = dtypes[dtype].blockElements === 256 ? [256, 768] : [32, 288];
    for (const [i, columns] of sizes.entries()) {
      const outputs = i === 0 ? 17 : 48;
      test(`${dtype} [${outputs}, ${columns}]`, () => {
        const m = matrix(dtype, outputs, columns);
        const x = randomFloats(17 * columns, 3);
        const bias = i === 0 ? null : randomFloats(outputs, 4);
        const want = expected(m, x, bias);
        for (const rows of [1, 9, 17]) {
          expectSums(product(m, first(m, x, rows), bias), want.slice(0, rows * outputs));
        }
      });
    }
  }
});

/** Odd sizes; columns of no unit, one, a whole number of segments, less, and segments of more than 8 units. */
const shapes: readonly (readonly [DType, number, number])[] = [
  ["bf16", 1, 8],
  ["bf16", 3, 77],
  ["f16", 15, 33],
  ["f16", 16, 640],
  ["bf16", 18, 1088],
  ["q8_0", 1, 96],
  ["q8_0", 15, 64],
  ["q8_0", 4240, 64], // more tiles than are there at once
  ["mxfp4", 16, 4192],
  ["mxfp4", 33, 2880],
];

describe("a row's bits do not depend on how many rows there are", () => {
  for (const [dtype, outputs, columns] of shapes)
    test(`${dtype} [${outputs}, ${columns}]`, () => {
      const m = matrix(dtype, outputs, columns);
      const most = columns > 1000 ? 35 : 66; // by every kernel: of streams, of 17 to 64 rows, of more
      const x = randomFloats(most * columns, 5);
      const bias = randomFloats(outputs, 6);
      const all = product(m, x, bias);
      for (const rows of [1, 2, 3, 8, 9, 16, 17, 33]) {
        expect(bits(product(m, first(m, x, rows), bias))).toEqual(bits(all.slice(0, rows * outputs)));
      }
      const [end, wanted] = [x.slice((most - 1) * columns), all.slice((most - 1) * outputs)];
      const last = product(m, end, bias);
      expect(bits(last)).toEqual(bits(wanted));
      expectSums(last, expected(m, end, bias));
    });

  /** Rows too long for a tile of them, or for them beside it, in shared memory: the ring of matmul_ring.cuh. */
  const long: readonly (readonly [DType, number, number])[] = [
    ["q8_0", 33, 7232],
    ["q4_k", 16, 12_288],
    ["q4_k", 20, 14_592],
    ["bf16", 40, 3520],
    ["mxfp4", 17, 14_400],
    ["q6_k", 18, 8192],
  ];
  for (const [dtype, outputs, columns] of long)
    test(`${dtype} [${outputs}, ${columns}], too long for shared memory`, () => {
      const m = matrix(dtype, outputs, columns);
      const x = randomFloats(9 * columns, 5);
      const bias = randomFloats(outputs, 6);
      const all = product(m, x, bias);
      for (const rows of [1, 2, 3, 5, 8]) {
        const got = product(m, first(m, x, rows), bias);
        expect(bits(got)).toEqual(bits(all.slice(0, rows * outputs)));
      }
      const want = expected(m, first(m, x, 1), bias);
      expectSums(product(m, first(m, x, 1), bias), want);
    });

  test("nor on where x lies", () => {
    for (const [dtype, columns] of [["q8_0", 96] as const, ["f32", 96] as const]) {
      const m = matrix(dtype, 20, columns);
      for (const rows of [2, 12, 20, 65]) {
        const x = randomFloats(rows * columns, rows);
        expect(bits(product(m, x, null, 4))).toEqual(bits(product(m, x, null)));
      }
    }
  });
});

test("bf16 weights: x counts with 16 bits and more, infinities stay what they are", () => {
  const columns = 1000;
  const m = matrix("bf16", 16, columns);
  const x = randomFloats(columns, 9);
  const w = fileValues("bf16", m.file, 16, columns);
  const exact = (n: number): number => x.reduce((sum, v, k) => sum + v * w[n * columns + k]!, 0);
  const want = Float32Array.from({ length: 16 }, (_, n) => exact(n));
  expect(Math.sqrt(normalisedError(product(m, x, null), want))).toBeLessThan(2e-5);
  const huge = new Float32Array(columns);
  huge[70] = Number.POSITIVE_INFINITY;
  for (const rows of [1, 20]) {
    const many = new Float32Array(rows * columns);
    many.set(huge, (rows - 1) * columns);
    const y = product(m, many, null).slice((rows - 1) * 16);
    for (let n = 0; n < 16; n++) expect(y[n]).toBe(w[n * columns + 70]! * Number.POSITIVE_INFINITY);
  }
});

describe("f32 weights", () => {
  const sizes = [
    [1, 1],
    [15, 33],
    [17, 96],
    [32, 1030],
    [5, 2880],
  ] as const;
  for (const [outputs, columns] of sizes)
    test(`[${outputs}, ${columns}]: f32 sums, the same for any number of rows`, () => {
      const m = matrix("f32", outputs, columns);
      const x = randomFloats(19 * columns, 7);
      const bias = randomFloats(outputs, 8);
      const all = product(m, x, bias);
      for (const rows of [1, 3, 7, 8, 9]) {
        expect(bits(product(m, first(m, x, rows), bias))).toEqual(bits(all.slice(0, rows * outputs)));
      }
      const w = fileValues("f32", m.file, outputs, columns);
      const want = new Float32Array(19 * outputs);
      for (let i = 0; i < want.length; i++) {
        const [r, n] = [Math.floor(i / outputs), i % outputs];
        let sum = bias[n]!;
        for (let k = 0; k < columns; k++) sum += x[r * columns + k]! * w[n * columns + k]!;
        want[i] = sum;
      }
      expect(normalisedError(all, want)).toBeLessThan(SUMS);
    });
});

describe("refusals", () => {
  const m = matrix("q8_0", 4, 32);
  const [y, x, scratch] = [deviceBytes(256), deviceBytes(256), deviceBytes(256)];
  const call = (
    w: number,
    s: Pointer | null,
    sizes: readonly [number, number, number],
    code: number,
    bytes: number,
  ) => cuda.psi_matmul!(y, x, w, null, s, ...sizes, code, bytes);
  const text = () => String((cuda.psi_last_error as unknown as () => string)());
  const q8 = dtypes.q8_0.id | PACKED;
  const w = m.packed as number;
  test.each([
    ["weights in file layout", () => call(w, scratch, [1, 4, 32], dtypes.q8_0.id, 256), 1, /packed weights/],
    ["weights off their alignment", () => call(w + 16, scratch, [1, 4, 32], q8, 256), 1, /aligned to 64/],
    ["columns that cut a block", () => call(w, scratch, [1, 4, 33], q8, 256), 1, /multiples of 32/],
    ["no outputs", () => call(w, scratch, [1, 0, 32], q8, 256), 1, /outputs >= 1/],
    ["no scratch", () => call(w, null, [1, 4, 32], q8, 256), 1, /128 bytes of scratch/],
    ["little scratch", () => call(w, scratch, [3, 4, 32], q8, 255), 1, /256 bytes of scratch, got 255/],
    ["f64", () => call(w, scratch, [1, 4, 32], dtypes.f64.id | PACKED, 256), 2, /id 28/],
    ["an unknown type", () => call(w, scratch, [1, 4, 32], 99 | PACKED, 256), 2, /id 99/],
  ] as const)("%s", (_name, body, status, message) => {
    expect(body()).toBe(status);
    expect(text()).toMatch(message);
  });
  test("no rows are no work", () => expect(call(w, null, [0, 4, 32], q8, 0)).toBe(0));
});
