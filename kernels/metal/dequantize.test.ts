import { describe, expect, test } from "bun:test";
import { dtypes } from "../../src/core/dtype.ts";
import { bits, floats, floatTypes, native, quantisedTypes, randomWeights } from "../cpu/library.ts";
import { check, deviceBytes, floatsFromDevice, metal, onDevice, path } from "./library.ts";

describe.skipIf(!path)("dequantisation on Metal", () => {
  test.each([...floatTypes, ...quantisedTypes])("%s: the reference's bits", (dtype) => {
    const { blockElements, id } = dtypes[dtype];
    const [rows, columns] = [5, blockElements > 1 ? 3 * blockElements : 37];
    const weights = randomWeights(dtype, rows, columns, 9);
    const want = floats(rows * columns);
    native.psi_dequantize_ref(want, weights, rows, columns, id);
    const y = deviceBytes(4 * rows * columns);
    const file = weights.subarray(0, (rows * columns * dtypes[dtype].blockBytes) / blockElements);
    check(metal.psi_dequantize!(y, onDevice(file), rows, columns, id));
    expect(bits(floatsFromDevice(y, rows * columns))).toEqual(bits(want));
  });

  test("types without kernels, and rows that blocks do not fill, are refused", () => {
    const some = deviceBytes(256);
    expect(() => check(metal.psi_dequantize!(some, some, 1, 32, dtypes.f64.id))).toThrow(/weight type/);
    expect(() => check(metal.psi_dequantize!(some, some, 1, 33, dtypes.q4_0.id))).toThrow(/multiples of 32/);
  });
});
