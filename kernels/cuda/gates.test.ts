import { expect, test } from "bun:test";
import { floats, randomFloats } from "../cpu/library.ts";
import { largestError, runReference } from "../cpu/twins.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice } from "./library.ts";

/** exp and division of the fast kind, as in glu; sums of squares in 32 lanes. */
const tolerance = 2e-5;

test.each([
  [1, 1, 1],
  [3, 2, 17],
  [2, 5, 128],
  [2, 1, 600],
])("rms_norm_gated, %i rows of %i heads of %i", (rows, heads, width) => {
  const [stride, offset] = [heads * width + 5, 3];
  const x = randomFloats(rows * heads * width, 1);
  const gate = randomFloats(rows * stride, 2);
  const w = randomFloats(width, 3);
  const expected = floats(x.length);
  runReference("rms_norm_gated", expected, x, gate, w, rows, heads, width, stride, offset, 1e-6);
  const [y, xAt, gateAt, wAt] = [deviceBytes(4 * x.length), onDevice(x), onDevice(gate), onDevice(w)];
  check(cuda.psi_rms_norm_gated!(y, xAt, gateAt, wAt, rows, heads, width, stride, offset, 1e-6));
  const got = floatsFromDevice(y, x.length);
  expect(largestError(got, expected)).toBeLessThan(tolerance);
  // in place, and the last row alone
  check(cuda.psi_rms_norm_gated!(xAt, xAt, gateAt, wAt, rows, heads, width, stride, offset, 1e-6));
  expect(floatsFromDevice(xAt, x.length)).toEqual(got);
  const last = (rows - 1) * heads * width;
  const rowAt = [onDevice(x.slice(last)), onDevice(gate.slice((rows - 1) * stride))];
  check(cuda.psi_rms_norm_gated!(y, ...rowAt, wAt, 1, heads, width, stride, offset, 1e-6));
  expect(floatsFromDevice(y, heads * width)).toEqual(got.slice(last));
});

test.each([
  [1, 1, 1, 0],
  [3, 4, 19, 1],
  [2, 3, 256, 0],
  [2, 2, 64, 4],
])("sigmoid_gate, %i rows of %i heads of %i beside their gates", (rows, heads, width, extra) => {
  const [stride, offset, apart] = [2 * heads * width + extra, width + extra, 2 * width];
  const x = randomFloats(rows * heads * width, 1);
  const gate = randomFloats(rows * stride, 2);
  const expected = floats(x.length);
  runReference("sigmoid_gate", expected, x, gate, rows, heads, width, stride, offset, apart);
  const [y, xAt, gateAt] = [deviceBytes(4 * x.length), onDevice(x), onDevice(gate)];
  check(cuda.psi_sigmoid_gate!(y, xAt, gateAt, rows, heads, width, stride, offset, apart));
  check(cuda.psi_sigmoid_gate!(xAt, xAt, gateAt, rows, heads, width, stride, offset, apart));
  const got = floatsFromDevice(y, x.length);
  expect(largestError(got, expected)).toBeLessThan(tolerance);
  expect(floatsFromDevice(xAt, x.length)).toEqual(got);
});

test.each([
  [1, 1],
  [3, 33],
  [5, 1024],
])("add_gated, %i rows of %i", (rows, width) => {
  const [base, x] = [randomFloats(rows * width, 1), randomFloats(rows * width, 2)];
  const gate = randomFloats(rows, 3);
  const expected = floats(x.length);
  runReference("add_gated", expected, base, x, gate, rows, width);
  const [y, baseAt, xAt, gateAt] = [deviceBytes(4 * x.length), onDevice(base), onDevice(x), onDevice(gate)];
  check(cuda.psi_add_gated!(y, baseAt, xAt, gateAt, rows, width));
  check(cuda.psi_add_gated!(baseAt, baseAt, xAt, gateAt, rows, width));
  const got = floatsFromDevice(y, x.length);
  expect(largestError(got, expected)).toBeLessThan(tolerance);
  expect(floatsFromDevice(baseAt, x.length)).toEqual(got);
});

test("gates outside their rows are refused", () => {
  const some = deviceBytes(1024);
  const call = (name: string, ...args: number[]) => check(cuda[`psi_${name}`]!(some, some, some, ...args));
  expect(() => call("rms_norm_gated", some, 1, 2, 16, 33, 2, 1e-6)).toThrow(/gate inside its rows/);
  expect(() => call("sigmoid_gate", 1, 2, 16, 48, 17, 16)).toThrow(/inside rows of 48/);
  expect(() => call("add_gated", some, -1, 16)).toThrow(/rows and a width/);
});
