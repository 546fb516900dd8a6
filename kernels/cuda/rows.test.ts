import { expect, test } from "bun:test";
import { floats, randomFloats } from "../cpu/library.ts";
import { ints, largestError, runReference } from "../cpu/twins.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice } from "./library.ts";

test.each([1, 3, 4, 255, 257, 2880])("gather_rows of %i columns", (width) => {
  const x = randomFloats(6 * width, width);
  const index = ints([5, 0, 0, 3, 5]);
  const y = deviceBytes(5 * width * 4);
  const expected = floats(5 * width);
  check(cuda.psi_gather_rows!(y, onDevice(x), onDevice(index), 5, width, 6));
  runReference("gather_rows", expected, x, index, 5, width, 6);
  expect(floatsFromDevice(y, 5 * width)).toEqual(expected);
});

test("gather_rows: an index outside the source gives a row of NaN and reads nothing", () => {
  const width = 10;
  const y = deviceBytes(4 * width * 4);
  const x = onDevice(randomFloats(2 * width, 1));
  check(cuda.psi_gather_rows!(y, x, onDevice(ints([1, -1, 2, 0])), 4, width, 2));
  const got = floatsFromDevice(y, 4 * width);
  for (const [row, bad] of [false, true, true, false].entries()) {
    expect(got.subarray(row * width, (row + 1) * width).every(Number.isNaN)).toBe(bad);
  }
});

test.each([1, 5, 1000, 4097])("softcap and add of %i", (count) => {
  const x = randomFloats(count, 3);
  for (let i = 0; i < count; i++) x[i] = x[i]! * (i % 3 === 0 ? 100 : 1);
  const cap = 30;
  const expected = floats(count);
  runReference("softcap", expected, x, count, cap);
  const [device, y] = [onDevice(x), deviceBytes(count * 4)];
  check(cuda.psi_softcap!(y, device, count, cap));
  expect(largestError(floatsFromDevice(y, count), expected)).toBeLessThan(2e-6);
  const other = randomFloats(count, 4);
  runReference("add", expected, x, other, count);
  check(cuda.psi_add!(device, device, onDevice(other), count));
  expect(floatsFromDevice(device, count)).toEqual(expected);
});

test("softcap of infinities is the cap", () => {
  const x = floats(3);
  x.set([Infinity, -Infinity, Number.NaN]);
  const y = deviceBytes(64);
  check(cuda.psi_softcap!(y, onDevice(x), 3, 15));
  expect([...floatsFromDevice(y, 3)]).toEqual([15, -15, Number.NaN]);
});

test("sizes out of contract are refused", () => {
  const some = deviceBytes(64);
  expect(() => check(cuda.psi_gather_rows!(some, some, some, 1, 0, 1))).toThrow(/gather_rows/);
  expect(() => check(cuda.psi_softcap!(some, some, 4, 0))).toThrow(/softcap.*above 0/);
  expect(() => check(cuda.psi_add!(some, some, null, 4))).toThrow(/add.*null/);
});
