import { expect, test } from "bun:test";
import { floats, randomFloats } from "../cpu/library.ts";
import { largestError, runReference } from "../cpu/twins.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice } from "./library.ts";

/** f32 sums of some thousand squares in 256 lanes against f64. */
const tolerance = 2e-6;
const eps = 1e-5;

type Sizes = readonly [rows: number, stride: number, offset: number, groups: number, width: number];

/** The norm of `x`, in place when `inPlace`; `skew` moves all arrays off 16-byte addresses. */
function norm(
  x: Float32Array,
  w: Float32Array | null,
  sizes: Sizes,
  inPlace = false,
  skew = 0,
): Float32Array {
  const shifted = floats(x.length + skew);
  shifted.set(x, skew);
  const from = onDevice(shifted) + 4 * skew;
  const to = inPlace ? from : deviceBytes((x.length + skew) * 4) + 4 * skew;
  const shiftedW = floats((w?.length ?? 0) + skew);
  if (w) shiftedW.set(w, skew);
  check(cuda.psi_rms_norm!(to, from, w ? onDevice(shiftedW) + 4 * skew : null, ...sizes, eps));
  return floatsFromDevice(to as never, x.length);
}

test.each([
  [1, 1],
  [3, 15],
  [2, 64],
  [5, 33],
  [3, 512],
  [2, 513],
  [7, 2880],
  [2, 4097],
  [1, 9000],
])("%i rows of %i", (rows, width) => {
  const x = randomFloats(rows * width, width);
  const w = randomFloats(width, 7);
  for (const weight of [w, null]) {
    const sizes = [rows, width, 0, 1, width] as const;
    const expected = floats(rows * width);
    runReference("rms_norm", expected, x, weight, ...sizes, eps);
    const got = norm(x, weight, sizes);
    expect(largestError(got, expected)).toBeLessThan(tolerance);
    expect(norm(x, weight, sizes, true)).toEqual(got);
    expect(norm(x, weight, sizes, false, 1)).toEqual(got);
  }
});

test("heads inside rows: only the chosen columns change", () => {
  for (const sizes of [
    [3, 100, 4, 2, 40],
    [3, 101, 5, 2, 40],
    [2, 1300, 8, 2, 600],
  ] as const) {
    const [rows, stride, offset, groups, width] = sizes;
    const x = randomFloats(rows * stride, 3);
    const w = randomFloats(width, 5);
    const expected = floats(x.length);
    expected.set(x);
    runReference("rms_norm", expected, expected, w, ...sizes, eps);
    const got = norm(x, w, sizes, true);
    expect(largestError(got, expected)).toBeLessThan(tolerance);
    for (let i = 0; i < x.length; i++) {
      const column = i % stride;
      if (column < offset || column >= offset + groups * width) expect(got[i]).toBe(x[i]!);
    }
  }
});

test("a row has the same bits alone and among others, at any place", () => {
  for (const width of [37, 501, 2880, 2881]) {
    const rows = 5;
    const x = randomFloats(rows * width, width);
    const w = randomFloats(width, 2);
    const all = norm(x, w, [rows, width, 0, 1, width]);
    for (let r = 0; r < rows; r++) {
      const one = floats(width);
      one.set(x.subarray(r * width, (r + 1) * width));
      expect([...norm(one, w, [1, width, 0, 1, width])]).toEqual([
        ...all.subarray(r * width, (r + 1) * width),
      ]);
    }
  }
});

test("add_rms_norm equals add, then rms_norm, bit for bit; the sum may be x", () => {
  for (const [rows, width] of [
    [5, 130],
    [2, 2880],
    [1, 5001],
  ] as const) {
    const x = randomFloats(rows * width, 11);
    const delta = randomFloats(rows * width, 12);
    const w = onDevice(randomFloats(width, 13));
    const [a, b] = [onDevice(x), onDevice(delta)];
    const [sum, y, sumApart] = [0, 1, 2].map(() => deviceBytes(rows * width * 4));
    check(cuda.psi_add!(sumApart!, a, b, rows * width));
    const apart = norm(floatsFromDevice(sumApart!, rows * width), randomFloats(width, 13), [
      rows,
      width,
      0,
      1,
      width,
    ]);
    for (const to of [sum!, a]) {
      check(cuda.psi_add_rms_norm!(to, y!, a, b, w, rows, width, eps));
      expect(floatsFromDevice(y!, rows * width)).toEqual(apart);
      expect(floatsFromDevice(to, rows * width)).toEqual(floatsFromDevice(sumApart!, rows * width));
    }
  }
});

test("NaN and infinity stay in their row", () => {
  const width = 700;
  const x = randomFloats(3 * width, 1);
  const clean = norm(x, null, [3, width, 0, 1, width]);
  x[5] = Number.NaN;
  x[width + 9] = Infinity;
  const got = norm(x, null, [3, width, 0, 1, width]);
  expect(got[0]).toBeNaN();
  expect(got[width]).toBe(0);
  expect(got[width + 9]).toBeNaN();
  expect(got.subarray(2 * width)).toEqual(clean.subarray(2 * width));
});

test("groups outside the rows are refused", () => {
  const some = deviceBytes(256);
  expect(() => check(cuda.psi_rms_norm!(some, some, null, 1, 64, 1, 1, 64, eps))).toThrow(/rms_norm.*64/);
  expect(() => check(cuda.psi_rms_norm!(some, null, null, 1, 64, 0, 1, 64, eps))).toThrow(/rms_norm.*null/);
  expect(() => check(cuda.psi_add_rms_norm!(some, some, some, some, null, 1, 64, eps))).toThrow(/null/);
});
