import { describe, expect, test } from "bun:test";
import { type DType, dtypes, rowBytes } from "../../src/core/dtype.ts";
import {
  bits,
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

const f = Math.fround;
const iq4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
const fp4 = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
const range = (n: number) => [...Array(n).keys()];

/** binary16 to number, from the definition. */
function half(v: DataView, at: number): number {
  const h = v.getUint16(at, true);
  const exponent = (h >> 10) & 31;
  const mantissa = h & 1023;
  const magnitude = exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15);
  return h & 0x8000 ? -magnitude : magnitude;
}

type Block = (b: Uint8Array, v: DataView) => number[];
const low = (b: number) => b & 15;
const high = (b: number) => b >> 4;
/** 16 bytes to 32 nibbles: the low halves, then the high ones. */
const nibbles = (b: Uint8Array) => [...[...b].map(low), ...[...b].map(high)];
const bit = (word: number, i: number) => (word >>> i) & 1;

function kScale(s: Uint8Array, j: number): [number, number] {
  if (j < 4) return [s[j]! & 63, s[j + 4]! & 63];
  return [(s[j + 4]! & 15) | ((s[j - 4]! >> 6) << 4), (s[j + 4]! >> 4) | ((s[j]! >> 6) << 4)];
}
function q3Scales(b: Uint8Array): number[] {
  const a = (i: number, mask: number, shift: number) =>
    range(4).map((k) => (b[96 + 4 * i + k]! >> shift) & mask);
  const join = (x: number[], y: number[]) => x.map((v, i) => (v | (y[i]! << 4)) - 32);
  return [
    ...join(a(0, 15, 0), a(2, 3, 0)),
    ...join(a(1, 15, 0), a(2, 3, 2)),
    ...join(a(0, 15, 4), a(2, 3, 4)),
    ...join(a(1, 15, 4), a(2, 3, 6)),
  ];
}

/** models.md parts 2.3 and 2.4, with the elements in their order in the row. */
const formulas: Partial<Record<DType, Block>> = {
  q8_0: (_b, v) => range(32).map((i) => f(half(v, 0) * v.getInt8(2 + i))),
  q4_0: (b, v) => nibbles(b.subarray(2)).map((q) => f(half(v, 0) * (q - 8))),
  q4_1: (b, v) => nibbles(b.subarray(4)).map((q) => f(f(half(v, 0) * q) + half(v, 2))),
  q5_0: (b, v) =>
    nibbles(b.subarray(6)).map((q, i) => f(half(v, 0) * ((q | (bit(v.getUint32(2, true), i) << 4)) - 16))),
  q5_1: (b, v) =>
    nibbles(b.subarray(8)).map((q, i) =>
      f(f(half(v, 0) * (q | (bit(v.getUint32(4, true), i) << 4))) + half(v, 2)),
    ),
  iq4_nl: (b, v) => nibbles(b.subarray(2)).map((q) => f(half(v, 0) * iq4[q]!)),
  mxfp4: (b) => nibbles(b.subarray(1)).map((q) => f(2 ** (b[0]! - 128) * fp4[q]!)),
  q2_k: (b, v) =>
    range(256).map((i) => {
      const [h, j, p, l] = [i >> 7, (i >> 5) & 3, (i >> 4) & 1, i & 15];
      const sc = b[8 * h + 2 * j + p]!;
      const q = (b[16 + 32 * h + 16 * p + l]! >> (2 * j)) & 3;
      return f(f(f(half(v, 80) * (sc & 15)) * q) - f(half(v, 82) * (sc >> 4)));
    }),
  q3_k: (b, v) => {
    const scales = q3Scales(b);
    return range(256).map((i) => {
      const [h, j, p, l] = [i >> 7, (i >> 5) & 3, (i >> 4) & 1, i & 15];
      const q = ((b[32 + 32 * h + 16 * p + l]! >> (2 * j)) & 3) - (bit(b[16 * p + l]!, 4 * h + j) ? 0 : 4);
      return f(f(half(v, 108) * scales[8 * h + 2 * j + p]!) * q);
    });
  },
  q4_k: (b, v) =>
    range(256).map((i) => {
      const [g, hi, l] = [i >> 6, (i >> 5) & 1, i & 31];
      const [sc, mn] = kScale(b.subarray(4), 2 * g + hi);
      const q = hi ? high(b[16 + 32 * g + l]!) : low(b[16 + 32 * g + l]!);
      return f(f(f(half(v, 0) * sc) * q) - f(half(v, 2) * mn));
    }),
  q5_k: (b, v) =>
    range(256).map((i) => {
      const [g, hi, l] = [i >> 6, (i >> 5) & 1, i & 31];
      const [sc, mn] = kScale(b.subarray(4), 2 * g + hi);
      const q =
        (hi ? high(b[48 + 32 * g + l]!) : low(b[48 + 32 * g + l]!)) + 16 * bit(b[16 + l]!, 2 * g + hi);
      return f(f(f(half(v, 0) * sc) * q) - f(half(v, 2) * mn));
    }),
  q6_k: (b, v) =>
    range(256).map((i) => {
      const [h, part, l] = [i >> 7, (i >> 5) & 3, i & 31];
      const from = b[64 * h + l + 32 * (part & 1)]!;
      const q =
        ((part < 2 ? low(from) : high(from)) | (((b[128 + 32 * h + l]! >> (2 * part)) & 3) << 4)) - 32;
      return f(f(half(v, 208) * v.getInt8(192 + 8 * h + (l >> 4) + 2 * part)) * q);
    }),
  iq4_xs: (b, v) =>
    range(256).map((i) => {
      const [s, l] = [i >> 5, i & 31];
      const ls = ((b[4 + (s >> 1)]! >> (4 * (s & 1))) & 15) | (((v.getUint16(2, true) >> (2 * s)) & 3) << 4);
      const byte = b[8 + 16 * s + (l & 15)]!;
      return f(f(half(v, 0) * (ls - 32)) * iq4[l < 16 ? low(byte) : high(byte)]!);
    }),
};

function dequantized(dtype: DType, weights: Uint8Array, rows: number, columns: number): Float32Array {
  const y = floats(rows * columns).fill(Number.NaN);
  check(native.psi_dequantize(y, weights, rows, columns, dtypes[dtype].id));
  return y;
}

test.each(quantisedTypes)("%s follows its formula bit for bit", (dtype) => {
  const { blockElements, blockBytes } = dtypes[dtype];
  const rows = 20;
  const weights = randomWeights(dtype, rows, 2 * blockElements, 7);
  if (dtype === "mxfp4")
    for (let i = 0; i < 40; i++) weights[i * blockBytes] = [0, 1, 2, 3, 127, 254][i % 6]!;
  const want = range(2 * rows).flatMap((i) => {
    const block = weights.subarray(i * blockBytes, (i + 1) * blockBytes);
    return formulas[dtype]!(block, new DataView(block.buffer, block.byteOffset, blockBytes));
  });
  for (const level of levels) {
    const got = opened(level, 1, () => dequantized(dtype, weights, rows, 2 * blockElements));
    for (const [i, value] of want.entries())
      if (!Object.is(got[i], value)) expect([i, got[i]]).toEqual([i, value]);
  }
});

test("golden blocks, worked out by hand", () => {
  opened("", 1, () => {
    const q4 = new Uint8Array(18);
    q4.set([0x00, 0x40, 0x0f, 0x80], 0); // d = 2; byte 0: low 15, high 0; byte 1: low 0, high 8
    const y = dequantized("q4_0", q4, 1, 32);
    expect([y[0], y[16], y[1], y[17], y[2]]).toEqual([14, -16, -16, 0, -16]);
    const fp = new Uint8Array(17);
    fp.set([129, 0x72, 0x9f], 0); // scale 2^1 on doubled E2M1 values
    const z = dequantized("mxfp4", fp, 1, 32);
    expect([z[0], z[16], z[1], z[17], z[2]]).toEqual([4, 24, -24, -2, 0]);
  });
});

test("f16 and bf16 cover subnormals, infinities and NaN", () => {
  const words = new Uint16Array(1024);
  words.set([0x0001, 0x8001, 0x03ff, 0x0400, 0x7bff, 0x7c00, 0xfc00, 0x7e00, 0x8000, 0x3c01]);
  const f16 = opened("", 1, () => dequantized("f16", new Uint8Array(words.buffer), 1, 10));
  expect([...f16]).toEqual([
    2 ** -24,
    -(2 ** -24),
    1023 * 2 ** -24,
    2 ** -14,
    65504,
    Infinity,
    -Infinity,
    NaN,
    -0,
    1 + 2 ** -10,
  ]);
  words.set([0x0001, 0x3f80, 0x7f80, 0xffc0]);
  const bf16 = opened("", 1, () => dequantized("bf16", new Uint8Array(words.buffer), 1, 4));
  expect([...bf16]).toEqual([2 ** -133, 1, Infinity, NaN]);
});

describe.each(levels)("embedding at level %s", (level) => {
  test.each([...floatTypes, ...quantisedTypes])("%s rows, packed or not, have dequantize's bits", (dtype) => {
    const vocabulary = 37;
    const width = dtypes[dtype].blockElements === 1 ? 33 : 256;
    const weights = randomWeights(dtype, vocabulary, width, 3);
    const ids = new Int32Array(512);
    ids.set([0, 36, 15, 16, 17, 36, 31]);
    opened(level, 2, () => {
      const all = bits(dequantized(dtype, weights, vocabulary, width));
      const table = packed(dtype, weights, vocabulary, width);
      const { id } = dtypes[dtype];
      for (const [source, code] of [
        [weights, id],
        [table, id | PACKED],
      ] as const) {
        const y = floats(7 * width);
        check(native.psi_embedding(y, source, ids, 7, width, vocabulary, code, 1));
        for (let t = 0; t < 7; t++) {
          const row = bits(y).slice(t * width, (t + 1) * width);
          expect(row).toEqual(all.slice(ids[t]! * width, (ids[t]! + 1) * width));
        }
        const twice = floats(7 * width);
        check(native.psi_embedding(twice, source, ids, 7, width, vocabulary, code, 2));
        expect(twice[width + 3]).toBe(2 * y[width + 3]!);
        const reference = floats(7 * width);
        check(native.psi_embedding_ref(reference, source, ids, 7, width, vocabulary, code, 2));
        expect(bits(reference)).toEqual(bits(twice));
      }
    });
  });
});

test("ids outside the vocabulary are refused", () => {
  opened("", 1, () => {
    const ids = new Int32Array(512).fill(5);
    const status = native.psi_embedding(floats(64), new Uint8Array(2048), ids, 2, 4, 5, dtypes.f32.id, 1);
    expect(`${status} ${native.psi_last_error()}`).toBe(
      "1 [psi_embedding] expected ids from 0 to 4, got 5 at 0.",
    );
  });
});

/** Squared error over squared size that the quantisers stay below on uniform values: from their steps. */
const quantiserError: Partial<Record<DType, number>> = {
  f16: 1e-7,
  bf16: 1e-5,
  q8_0: 1e-4,
  q6_k: 1e-3,
  q5_0: 3e-3,
  q5_1: 2e-3,
  q5_k: 2e-3,
  q4_0: 1e-2,
  q4_1: 6e-3,
  q4_k: 6e-3,
  iq4_nl: 1.5e-2,
  iq4_xs: 1.5e-2,
  mxfp4: 3e-2,
  q3_k: 4e-2,
  q2_k: 1e-1,
};

test.each(Object.keys(quantiserError) as DType[])(
  "%s: quantising and reading back is close, zero stays zero",
  (dtype) => {
    opened("", 1, () => {
      const [rows, columns] = [4, 512];
      const x = randomFloats(rows * columns, 1).map((v, i) => v / (1 + (i % 7)));
      x.fill(0, 0, 256);
      const y = new Uint8Array(Math.max(2048, rows * rowBytes(dtype, columns)));
      check(native.psi_quantize(y, x, rows, columns, dtypes[dtype].id));
      const back = dequantized(dtype, y, rows, columns);
      expect(normalisedError(back, x)).toBeLessThan(quantiserError[dtype]!);
      expect(back.subarray(0, 256).every((v) => v === 0)).toBe(true);
    });
  },
);

test("q8_0 rounds half away from zero with the unrounded scale, q4_0 maps the extreme to code 0", () => {
  opened("", 1, () => {
    const x = floats(32);
    x.set([127, 0.5, -0.5, 1.5, -127]);
    const y = new Uint8Array(2048);
    check(native.psi_quantize(y, x, 1, 32, dtypes.q8_0.id));
    expect([...new Int8Array(y.buffer, 0, 7)]).toEqual([0x00, 0x3c, 127, 1, -1, 2, -127]);
    x.fill(0).set([-8, 7]);
    check(native.psi_quantize(y, x, 1, 32, dtypes.q4_0.id));
    expect([...y.subarray(0, 5)]).toEqual([0x00, 0x3c, 0x80, 0x8f, 0x88]);
  });
});
