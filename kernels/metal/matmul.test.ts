import { describe, expect, test } from "bun:test";
import { type DType, dtypes } from "../../src/core/dtype.ts";
import {
  floats,
  floatTypes,
  native,
  normalisedError,
  PACKED,
  quantisedTypes,
  randomFloats,
  randomWeights,
} from "../cpu/library.ts";
import { check, deviceBytes, floatsFromDevice, metal, onDevice, path } from "./library.ts";

/** f32 sums in another order than the reference's f64. */
const tolerance = 1e-11;
const types = [...floatTypes, ...quantisedTypes];

function product(
  dtype: DType,
  rows: number,
  outputs: number,
  columns: number,
  biased: boolean,
): readonly [Float32Array, Float32Array] {
  const x = randomFloats(rows * columns, 1);
  const w = randomWeights(dtype, outputs, columns, 2);
  const bias = biased ? randomFloats(outputs, 3) : null;
  const want = floats(rows * outputs);
  const { id } = dtypes[dtype];
  native.psi_matmul_ref(want, x, w, bias, null, rows, outputs, columns, id, 0);
  const y = deviceBytes(4 * rows * outputs);
  check(
    metal.psi_matmul!(
      y,
      onDevice(x),
      onDevice(w),
      bias && onDevice(bias),
      null,
      rows,
      outputs,
      columns,
      id | PACKED,
      0,
    ),
  );
  return [floatsFromDevice(y, rows * outputs), want];
}

describe.skipIf(!path)("matmul on Metal", () => {
  test.each(types)("%s: a few rows, odd sizes, bias", (dtype) => {
    const { blockElements } = dtypes[dtype];
    const columns = blockElements > 1 ? 2 * blockElements : 77;
    const [got, want] = product(dtype, 3, 45, columns, true);
    expect(normalisedError(got, want)).toBeLessThan(tolerance);
    const [many, wanted] = product(dtype, 17, 32, columns, false);
    expect(normalisedError(many, wanted)).toBeLessThan(tolerance);
  });

  test("a row's bits do not depend on how many rows there are", () => {
    // two splits of columns and a part of one
    const [columns, outputs] = [1280, 20];
    const w = onDevice(randomWeights("q4_k", outputs, columns, 5));
    const x = randomFloats(9 * columns, 6);
    const run = (rows: number): Float32Array => {
      const y = deviceBytes(4 * rows * outputs);
      const id = dtypes.q4_k.id | PACKED;
      check(
        metal.psi_matmul!(
          y,
          onDevice(x.subarray(0, rows * columns)),
          w,
          null,
          null,
          rows,
          outputs,
          columns,
          id,
          0,
        ),
      );
      return floatsFromDevice(y, rows * outputs);
    };
    const all = run(9);
    for (const rows of [1, 8]) expect(run(rows)).toEqual(all.subarray(0, rows * outputs));
  });
});
