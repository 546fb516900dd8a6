import { describe, expect, test } from "bun:test";
import { type DType, dtypes } from "../../src/core/dtype.ts";
import { bits, PACKED, randomFloats, randomWeights } from "../cpu/library.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice } from "./library.ts";
import { packedOnDevice, roundedBytes, roundedTypes } from "./weights.ts";

const [alpha, limit] = [1.702, 7];

type Size = readonly [rows: number, features: number, columns: number];

/** What psi_matmul_glu gives, and what psi_matmul and psi_glu do. */
function bothWays(dtype: DType, [rows, features, columns]: Size, kind: number, biased: boolean) {
  const file = randomWeights(dtype, 2 * features, columns, features + columns);
  const w = packedOnDevice(dtype, file, 2 * features, columns);
  const bias = biased ? onDevice(randomFloats(2 * features, 4)) : null;
  const x = onDevice(randomFloats(Math.max(rows * columns, 512), rows));
  const code = dtypes[dtype].id | PACKED;
  const own = roundedBytes(dtype, rows, columns) + 64;
  const bytes = own + 64 + 8 * rows * features;
  const scratch = deviceBytes(bytes);
  const [fused, both, apart] = [1, 2, 1].map((n) => deviceBytes(Math.max(4 * n * rows * features, 2048)));
  check(
    cuda.psi_matmul_glu!(
      fused!,
      x,
      w,
      bias,
      scratch,
      rows,
      features,
      columns,
      code,
      kind,
      alpha,
      limit,
      bytes,
    ),
  );
  check(cuda.psi_matmul!(both!, x, w, bias, scratch, rows, 2 * features, columns, code, own));
  const up = ((both as number) + 4 * features) as never;
  check(cuda.psi_glu!(apart!, both!, up, rows, features, 2 * features, 2 * features, kind, alpha, limit));
  const result = (at: typeof fused) => bits(floatsFromDevice(at!, rows * features));
  return { fused: result(fused), apart: result(apart) };
}

describe("the bits of a product and its activation", () => {
  for (const dtype of roundedTypes)
    test(`${dtype}`, () => {
      const columns = dtypes[dtype].blockElements === 256 ? 768 : 320;
      for (const rows of [1, 2, 3, 8, 9]) {
        const { fused, apart } = bothWays(dtype, [rows, 32, columns], rows % 3, rows % 2 === 0);
        expect(fused).toEqual(apart);
      }
    });

  test.each([
    [1, 16, 64],
    [2, 48, 8192],
    [5, 48, 8192],
    [1, 17, 96],
    [3, 8, 128],
    [20, 32, 192],
    [0, 16, 64],
  ] as const)("%i rows, %i features of %i columns", (rows, features, columns) => {
    const { fused, apart } = bothWays("q8_0", [rows, features, columns], 0, true);
    expect(fused).toEqual(apart);
  });
});

test("weights in f32, another kind and too little scratch are refused", () => {
  const some = deviceBytes(8192);
  const call = (type: DType, kind: number, bytes: number) =>
    check(
      cuda.psi_matmul_glu!(
        some,
        some,
        some,
        null,
        some,
        1,
        16,
        64,
        dtypes[type].id | PACKED,
        kind,
        0,
        0,
        bytes,
      ),
    );
  call("q8_0", 0, 192 + 64 + 128);
  expect(() => call("q8_0", 0, 192 + 64 + 127)).toThrow(/384 bytes of scratch/);
  expect(() => call("f32", 0, 8192)).toThrow(/no F32/);
  expect(() => call("q8_0", 3, 8192)).toThrow(/kind 0, 1 or 2/);
});
