import { describe, expect, test } from "bun:test";
import { type DType, dtypes } from "../../src/core/dtype.ts";
import { bits, floats, native, check as nativeCheck, PACKED, randomWeights } from "../cpu/library.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice } from "./library.ts";
import { differences, fileBytes, fileValues, packedOnDevice, roundedTypes, roundToBf16 } from "./weights.ts";

const vocabulary = 19;
const scale = 1.7;
const tokens = [18, 0, 7, 7, 16];
const ids = new Int32Array(512);
ids.set(tokens);

const width = (dtype: DType) =>
  dtypes[dtype].blockElements === 256 ? 512 : dtypes[dtype].blockElements === 32 ? 288 : 77;

/** Rows of `values` [vocabulary, width] that the tokens name, times the scale. */
function named(values: Float32Array, columns: number): Float32Array {
  const y = floats(tokens.length * columns);
  for (const [t, id] of tokens.entries())
    for (let k = 0; k < columns; k++) y[t * columns + k] = Math.fround(scale) * values[id * columns + k]!;
  return y;
}

function embedding(table: number, columns: number, code: number): Float32Array {
  const y = deviceBytes(tokens.length * columns * 4);
  check(cuda.psi_embedding!(y, table, onDevice(ids), tokens.length, columns, vocabulary, code, scale));
  return floatsFromDevice(y, tokens.length * columns);
}

describe("rows of a table, scaled", () => {
  for (const dtype of [...roundedTypes, "f32" as const])
    test(dtype, () => {
      const columns = width(dtype);
      const { id } = dtypes[dtype];
      const file = randomWeights(dtype, vocabulary, columns, 3);
      const inFile = embedding(onDevice(file) as number, columns, id);
      const want = floats(tokens.length * columns);
      nativeCheck(native.psi_embedding_ref(want, file, ids, tokens.length, columns, vocabulary, id, scale));
      expect(bits(inFile)).toEqual(bits(want));

      const values = fileValues(dtype, file, vocabulary, columns);
      const packed = packedOnDevice(dtype, file, vocabulary, columns);
      const got = embedding(packed as number, columns, id | PACKED);
      const rounded = dtype === "f32" ? values : roundToBf16(values);
      expect(differences(got, named(rounded, columns))).toBe(0);
    });
});

test("dequantisation on the device has the CPU's bits", () => {
  for (const dtype of [...roundedTypes, "f32" as const]) {
    const columns = width(dtype);
    const file = randomWeights(dtype, 5, columns, 11);
    const y = deviceBytes(5 * columns * 4);
    check(cuda.psi_dequantize!(y, onDevice(file), 5, columns, dtypes[dtype].id));
    const got = floatsFromDevice(y, 5 * columns);
    expect(bits(got)).toEqual(
      bits(fileValues(dtype, file.subarray(0, fileBytes(dtype, 5, columns)), 5, columns)),
    );
  }
});

test("an id outside the table gives NaN, in either layout", () => {
  const file = randomWeights("q8_0", vocabulary, 32, 1);
  const wrong = new Int32Array(512);
  wrong.set([vocabulary, 3, -1]);
  for (const [table, code] of [
    [onDevice(file), dtypes.q8_0.id],
    [packedOnDevice("q8_0", file, vocabulary, 32), dtypes.q8_0.id | PACKED],
  ] as const) {
    const y = deviceBytes(3 * 32 * 4);
    check(cuda.psi_embedding!(y, table, onDevice(wrong), 3, 32, vocabulary, code, 1));
    const rows = floatsFromDevice(y, 96);
    expect([...rows].map((v) => Number.isNaN(v))).toEqual(
      [...Array(96).keys()].map((i) => i < 32 || i >= 64),
    );
  }
});

test("refusals", () => {
  const [y, table, at] = [deviceBytes(4096), deviceBytes(4096), onDevice(ids)];
  const call = (width: number, words: number, code: number) =>
    cuda.psi_embedding!(y, table, at, 1, width, words, code, 1);
  expect(call(33, 4, dtypes.q8_0.id)).toBe(1);
  expect(call(32, 0, dtypes.q8_0.id)).toBe(1);
  expect(call(32, 4, dtypes.f64.id)).toBe(2);
  expect(call(32, 4, 99)).toBe(2);
  expect(cuda.psi_embedding!(y, null, at, 1, 32, 4, dtypes.q8_0.id, 1)).toBe(1);
  expect(cuda.psi_embedding!(y, table, at, 0, 32, 4, dtypes.q8_0.id, 1)).toBe(0);
  expect(cuda.psi_dequantize!(y, table, 1, 32, dtypes.f64.id)).toBe(2);
  expect(cuda.psi_dequantize!(y, table, 1, 33, dtypes.q8_0.id)).toBe(1);
});
