import type { Pointer } from "bun:ffi";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type DType, dtypes } from "../../src/core/dtype.ts";
import {
  A16,
  bits,
  bytesAt,
  check,
  floats,
  floatTypes,
  levels,
  native,
  normalisedError,
  opened,
  PACKED,
  packed,
  quantisedTypes,
  randomFloats,
  randomWeights,
} from "./library.ts";

/**
 * Largest error of an output over |x| |w| + |y| (so that cancellation does not count). Inputs rounded to 8 bits are off by
 * at most 1/254 of the largest of their block, to 16 bits by 256 times less; f32 sums of these lengths by a few 1e-7.
 */
const quantisedError = 4e-3;
const wideError = 2e-5;
const floatError = 1e-6;

const scratch = { address: 0 as Pointer, bytes: 4 << 20 };
beforeAll(() => {
  scratch.address = bytesAt(scratch.bytes);
});

type Shape = { readonly rows: number; readonly outputs: number; readonly columns: number };

function product(
  dtype: DType,
  x: Float32Array,
  w: Pointer,
  bias: Float32Array | null,
  s: Shape,
  width = 0,
): Float32Array {
  const y = floats(s.rows * s.outputs).fill(Number.NaN);
  const code = dtypes[dtype].id | PACKED | width;
  check(native.psi_matmul(y, x, w, bias, scratch.address, s.rows, s.outputs, s.columns, code, scratch.bytes));
  return y;
}
function reference(
  dtype: DType,
  x: Float32Array,
  w: Uint8Array,
  bias: Float32Array | null,
  s: Shape,
): Float32Array {
  const y = floats(s.rows * s.outputs);
  check(native.psi_matmul_ref(y, x, w, bias, null, s.rows, s.outputs, s.columns, dtypes[dtype].id, 0));
  return y;
}

function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, v) => sum + v * v, 0));
}
function largestError(
  got: Float32Array,
  want: Float32Array,
  x: Float32Array,
  weights: Uint8Array,
  dtype: DType,
  s: Shape,
): number {
  const values = floats(s.outputs * s.columns);
  check(native.psi_dequantize(values, weights, s.outputs, s.columns, dtypes[dtype].id));
  const row = (m: Float32Array, r: number) => norm(m.subarray(r * s.columns, (r + 1) * s.columns));
  let largest = 0;
  for (let r = 0; r < s.rows; r++)
    for (let n = 0; n < s.outputs; n++) {
      const at = r * s.outputs + n;
      const error = Math.abs(got[at]! - want[at]!) / (row(x, r) * row(values, n) + Math.abs(want[at]!));
      if (!(error <= largest)) largest = error; // keeps a NaN
    }
  return largest;
}

/** Odd sizes around the panel (16), the tiles and the row counts where the path changes. */
function shapes(dtype: DType): Shape[] {
  const block = dtypes[dtype].blockElements;
  const columns = block === 1 ? [1, 7, 33, 520] : block === 32 ? [32, 96, 544] : [256, 768];
  const rowsAndOutputs = [
    [1, 1],
    [1, 100],
    [2, 15],
    [3, 16],
    [5, 17],
    [17, 33],
    [50, 33],
    [7, 257],
  ] as const;
  return columns.flatMap((c) => rowsAndOutputs.map(([rows, outputs]) => ({ rows, outputs, columns: c })));
}

describe.each(levels)("matmul at level %s", (level) => {
  test.each([...floatTypes, ...quantisedTypes])("%s agrees with the reference over odd sizes", (dtype) => {
    opened(level, 2, () => {
      shapes(dtype).forEach((s, seed) => {
        const weights = randomWeights(dtype, s.outputs, s.columns, seed);
        const x = randomFloats(s.rows * s.columns, seed + 1);
        const bias = seed % 2 === 0 ? randomFloats(s.outputs, seed + 2) : null;
        const w = packed(dtype, weights, s.outputs, s.columns);
        const want = reference(dtype, x, weights, bias, s);
        for (const [width, wide] of [
          [0, quantisedError],
          [A16, wideError],
        ] as const) {
          const got = product(dtype, x, w, bias, s, width);
          const error = largestError(got, want, x, weights, dtype, s);
          const limit = floatTypes.includes(dtype) ? floatError : wide;
          const at = { ...s, seed, width };
          expect({ ...at, error: error < limit ? "ok" : error }).toEqual({ ...at, error: "ok" });
        }
      });
    });
  });

  test.each([...floatTypes, ...quantisedTypes])(
    "%s: a row's bits do not depend on its company or the threads",
    (dtype) => {
      const columns = 768;
      const outputs = 83;
      const rows = 300;
      const weights = randomWeights(dtype, outputs, columns, 5);
      const x = randomFloats(rows * columns, 6);
      const results = [1, 2].map((threads) =>
        opened(level, threads, () => {
          const w = packed(dtype, weights, outputs, columns);
          return [0, A16].map((width) => {
            const all = bits(product(dtype, x, w, null, { rows, outputs, columns }, width));
            for (const [first, count] of [
              [0, 1],
              [299, 1],
              [131, 2],
              [3, 3],
              [40, 4],
              [17, 33],
            ] as const) {
              const part = floats(count * columns);
              part.set(x.subarray(first * columns, (first + count) * columns));
              const alone = bits(product(dtype, part, w, null, { rows: count, outputs, columns }, width));
              expect(alone).toEqual(all.slice(first * outputs, (first + count) * outputs));
            }
            return all;
          });
        }),
      );
      expect(results[0]).toEqual(results[1]!);
    },
  );
});

test("the levels agree with each other on quantised products up to the order of float sums", () => {
  const s = { rows: 3, outputs: 40, columns: 512 };
  for (const dtype of quantisedTypes) {
    const weights = randomWeights(dtype, s.outputs, s.columns, 9);
    const x = randomFloats(s.rows * s.columns, 10);
    for (const width of [0, A16]) {
      const [first, ...others] = levels.map((level) =>
        opened(level, 1, () =>
          product(dtype, x, packed(dtype, weights, s.outputs, s.columns), null, s, width),
        ),
      );
      for (const other of others) expect(normalisedError(other, first!)).toBeLessThan(1e-12);
    }
  }
});

test("whole sums of codes give every level with fused products the same bits, whatever it adds up in 16 bits", () => {
  const fused = levels.filter((level) => level !== "plain");
  for (const dtype of quantisedTypes) {
    // 7 rows go through registers alone, 45 through tiles where there are tiles; 800 columns end in a piece of 9 blocks
    for (const [rows, width] of [
      [7, 0],
      [45, 0],
      [7, A16],
      [45, A16],
    ] as const) {
      const s = { rows, outputs: 40, columns: dtypes[dtype].blockElements === 32 ? 800 : 768 };
      const weights = new Uint8Array(randomWeights(dtype, s.outputs, s.columns, 12));
      const x = randomFloats(s.rows * s.columns, 13).map((v, i) => (i % 3 === 0 ? Math.sign(v) : v));
      const results = fused.map((level) =>
        opened(level, 1, () =>
          bits(product(dtype, x, packed(dtype, weights, s.outputs, s.columns), null, s, width)),
        ),
      );
      for (const result of results) expect(result).toEqual(results[0]!);
    }
  }
});

test("a product with one hot weight and one hot input is exact", () => {
  const columns = 64;
  const weights = new Uint8Array(2048);
  weights.set([0x00, 0x3c], 34); // d = 1 in the second block of the only row
  weights[34 + 2 + 5] = 0x81; // -127 at column 37
  const x = floats(columns);
  x[37] = 2;
  for (const level of levels) {
    opened(level, 1, () => {
      expect(
        product("q8_0", x, packed("q8_0", weights, 1, columns), null, { rows: 1, outputs: 1, columns })[0],
      ).toBe(-254);
    });
  }
});

test("codes and inputs at their extremes neither saturate nor overflow", () => {
  const s = { rows: 33, outputs: 16, columns: 1024 };
  for (const fill of [0x80, 0x7f]) {
    const weights = new Uint8Array(s.outputs * (s.columns / 32) * 34).fill(fill);
    for (let b = 0; b < weights.length; b += 34) weights.set([0x00, 0x3c], b);
    const x = floats(s.rows * s.columns).fill(127);
    for (const level of levels) {
      opened(level, 1, () => {
        const w = packed("q8_0", weights, s.outputs, s.columns);
        for (const width of [0, A16])
          expect(new Set(product("q8_0", x, w, null, s, width))).toEqual(
            new Set([(fill === 0x80 ? -128 : 127) * 127 * s.columns]),
          );
      });
    }
  }
});

test("the largest narrow codes with the largest inputs do not saturate sums of 16 bits", () => {
  const s = { rows: 33, outputs: 16, columns: 1024 };
  /** Bytes of a block of `columns`, with `codes` everywhere but in its scales. */
  const block = (bytes: number, codes: number, scales: readonly (readonly [number, readonly number[]])[]) => {
    const out = new Uint8Array(bytes).fill(codes);
    for (const [at, values] of scales) out.set(values, at);
    return out;
  };
  const one = [0x00, 0x3c];
  const cases: readonly (readonly [DType, number, Uint8Array, number])[] = [
    ["q4_0", 32, block(18, 0xff, [[0, one]]), 7],
    ["q5_0", 32, block(22, 0xff, [[0, one]]), 15],
    ["mxfp4", 32, block(17, 0x77, [[0, [127]]]), 6],
    [
      "q6_k",
      256,
      block(210, 0xff, [
        [192, Array(16).fill(1)],
        [208, one],
      ]),
      31,
    ],
  ];
  for (const [dtype, columns, bytes, value] of cases) {
    const weights = new Uint8Array(s.outputs * (s.columns / columns) * bytes.length);
    for (let at = 0; at < weights.length; at += bytes.length) weights.set(bytes, at);
    for (const sign of [1, -1]) {
      const x = floats(s.rows * s.columns).fill(127 * sign);
      for (const level of levels) {
        for (const width of [0, A16]) {
          const y = opened(level, 1, () =>
            product(dtype, x, packed(dtype, weights, s.outputs, s.columns), null, s, width),
          );
          expect(new Set(y)).toEqual(new Set([value * 127 * sign * s.columns]));
        }
      }
    }
  }
});

test("a NaN or an infinity in a row reaches its outputs and no other row's", () => {
  const s = { rows: 33, outputs: 20, columns: 256 };
  for (const dtype of ["f32", "q8_0", "q6_k", "mxfp4"] as const) {
    const weights = randomWeights(dtype, s.outputs, s.columns, 3);
    const x = randomFloats(s.rows * s.columns, 4);
    const whole = x.slice();
    x[2 * s.columns + 100] = Number.NaN;
    x[4 * s.columns + 200] = Number.POSITIVE_INFINITY;
    for (const width of [0, A16])
      opened("", 1, () => {
        const w = packed(dtype, weights, s.outputs, s.columns);
        const clean = product(dtype, whole, w, null, s, width);
        const y = product(dtype, x, w, null, s, width);
        for (let r = 0; r < s.rows; r++) {
          const row = y.subarray(r * s.outputs, (r + 1) * s.outputs);
          if (r === 2 || r === 4) expect(row.some(Number.isFinite)).toBe(false);
          else expect([...row]).toEqual([...clean.subarray(r * s.outputs, (r + 1) * s.outputs)]);
        }
      });
  }
});

test("f64 weights run in f64", () => {
  const s = { rows: 3, outputs: 18, columns: 37 };
  const weights = randomWeights("f64", s.outputs, s.columns, 1);
  const w = new Float64Array(weights.buffer);
  const x = Float64Array.from({ length: 512 }, (_, i) => Math.sin(i));
  const bias = Float64Array.from({ length: 512 }, (_, i) => Math.cos(i));
  const y = new Float64Array(512);
  opened("", 1, () => {
    const address = packed("f64", weights, s.outputs, s.columns);
    check(
      native.psi_matmul(y, x, address, bias, null, s.rows, s.outputs, s.columns, dtypes.f64.id | PACKED, 0),
    );
  });
  for (let r = 0; r < s.rows; r++)
    for (let n = 0; n < s.outputs; n++) {
      let sum = 0;
      for (let k = 0; k < s.columns; k++) sum += x[r * s.columns + k]! * w[n * s.columns + k]!;
      expect(Math.abs(y[r * s.outputs + n]! - (sum + bias[n]!))).toBeLessThan(1e-13);
    }
});

describe("matmul refuses", () => {
  const x = floats(512);
  const y = floats(512);
  const call = (
    over: Partial<{ w: Pointer | null; columns: number; rows: number; dtype: number; bytes: number }>,
  ) => {
    const w = over.w === undefined ? scratch.address : over.w;
    const { rows = 1, columns = 64, dtype = dtypes.q8_0.id | PACKED, bytes = 1 << 20 } = over;
    const status = native.psi_matmul(y, x, w, null, scratch.address, rows, 4, columns, dtype, bytes);
    return `${status} ${status === 0 ? "" : native.psi_last_error()}`;
  };
  beforeAll(() => check(native.psi_open("", 1)));
  afterAll(() => check(native.psi_close()));
  test.each([
    ["a null weight", { w: null }, "1 [psi_matmul] expected non-null pointers."],
    [
      "broken blocks",
      { columns: 40 },
      "1 [psi_matmul] expected columns in multiples of 32 for Q8_0, got 40.",
    ],
    [
      "an unknown type",
      { dtype: 99 | PACKED },
      "2 [psi_matmul] expected a weight type of this library, got id 99.",
    ],
    [
      "file layout",
      { dtype: 8 },
      "1 [psi_matmul] expected packed weights (dtype | 256), got dtype 8. Use psi_pack.",
    ],
    ["little scratch", { bytes: 191 }, "1 [psi_matmul] expected 192 bytes of scratch, got 191."],
    [
      "little scratch for 16 bits",
      { dtype: dtypes.q8_0.id | PACKED | A16, bytes: 319 },
      "1 [psi_matmul] expected 320 bytes of scratch, got 319.",
    ],
    ["NaN scratch", { bytes: Number.NaN }, "1 [psi_matmul] expected 192 bytes of scratch, got nan."],
    [
      "negative rows",
      { rows: -1 },
      "1 [psi_matmul] expected rows >= 0, outputs >= 1, columns >= 1, got -1, 4, 64.",
    ],
  ])("%s", (_name, over, message) => {
    expect(call(over)).toBe(message);
  });
  test("nothing when there are no rows", () => {
    expect(call({ rows: 0 })).toBe("0 ");
  });
});
