import { describe, expect, test } from "bun:test";
import { dtypes } from "../../src/core/dtype.ts";
import { bits, floats, randomFloats } from "../cpu/library.ts";
import { ints, largestError, runReference } from "../cpu/twins.ts";
import { check, cuda, floatsFromDevice, onDevice } from "./library.ts";
import { bytesOf, type Case, cacheTypes, emptyTwins, plain, span, tokenArrays } from "./paged.ts";

/** Errors relative to 1 + |x|: two products of f32 sines good to 1e-7. */
const tolerance = 1e-6;

function frequencies(rotaryDims: number): Float32Array {
  const invFreq = floats(rotaryDims / 2);
  for (let i = 0; i < invFreq.length; i++) invFreq[i] = 150000 ** ((-2 * i) / rotaryDims);
  return invFreq;
}

describe("rope", () => {
  test.each([
    [1, 64, 64, 8],
    [0, 64, 64, 8],
    [1, 80, 50, 8],
    [0, 96, 32, 8],
    [1, 34, 34, 70],
    [1, 64, 64, 70],
  ])("neox %i, head %i, rotary %i, %i rows", (neox, headDim, rotaryDims, rows) => {
    const known = [0, 1, 77, 4095, 131_071, 999_983, 1_000_000, 16_777_217];
    const positions = ints(Array.from({ length: rows }, (_, i) => known[i] ?? i * 3));
    const [heads, offset] = [11, 5];
    const stride = offset + heads * headDim + 2;
    const invFreq = frequencies(rotaryDims);
    const x = randomFloats(rows * stride, 9);
    const on = onDevice(x);
    const args = [rows, stride, offset, heads, headDim, rotaryDims, neox, 1.25];
    check(cuda.psi_rope!(on, onDevice(positions), onDevice(invFreq), ...args));
    runReference("rope", x, positions, invFreq, ...args);
    expect(largestError(floatsFromDevice(on, x.length), x)).toBeLessThan(tolerance);
  });

  test("refuses heads outside the rows and odd rotary dimensions", () => {
    const at = onDevice(floats(16));
    expect(() => check(cuda.psi_rope!(at, at, at, 1, 60, 0, 1, 64, 64, 1, 1))).toThrow(/stride 60/);
    expect(() => check(cuda.psi_rope!(at, at, at, 1, 64, 0, 1, 64, 33, 1, 1))).toThrow(/got 33/);
  });
});

describe("rope_kv_write", () => {
  test.each(
    cacheTypes.flatMap((cacheType): [string, Case, number, number, number][] => [
      [`${cacheType}, halves`, { ...plain, cacheType, heads: 8 }, 64, 1, 9],
      [
        `${cacheType}, neighbours, part of a head`,
        { ...plain, cacheType, headDim: 96, kvHeads: 3, heads: 9 },
        48,
        0,
        5,
      ],
      [
        `${cacheType}, halves, part of a head, many rows`,
        { ...plain, cacheType, headDim: 96, heads: 6 },
        80,
        1,
        67,
      ],
    ]),
  )("the bits of rope, rope and kv_write: %s", (_name, c, rotaryDims, neox, count) => {
    const tokens = [...span(0, 30, 30 + count - 2), ...span(1, 5, 7)];
    const [width, kvWidth] = [c.heads * c.headDim, c.kvHeads * c.headDim];
    const stride = 4 + width + 2 * kvWidth; // q, k and v of a token in one row
    const rows = randomFloats(count * stride, 3);
    const invFreq = onDevice(frequencies(rotaryDims));
    const [sequences, positions] = tokenArrays(tokens);
    const [apart, fused] = [emptyTwins(c, [100, 100]), emptyTwins(c, [100, 100])];
    const { maxPages } = apart.cpu;
    const [q, k, v] = [4, 4 + width, 4 + width + kvWidth];
    const geometry = [c.kvHeads, c.headDim, c.pageSize, maxPages, dtypes[c.cacheType].id];

    const one = onDevice(rows);
    const turn = (offset: number, heads: number) =>
      check(
        cuda.psi_rope!(
          one,
          positions,
          invFreq,
          count,
          stride,
          offset,
          heads,
          c.headDim,
          rotaryDims,
          neox,
          1.5,
        ),
      );
    turn(q, c.heads);
    turn(k, c.kvHeads);
    check(
      cuda.psi_kv_write!(
        ...[apart.keys, apart.values, one, one, apart.table, sequences, positions],
        ...[count, stride, k, stride, v, ...geometry],
      ),
    );
    const two = onDevice(rows);
    check(
      cuda.psi_rope_kv_write!(
        ...[two, fused.keys, fused.values, two, two, fused.table, sequences, positions, invFreq],
        ...[count, stride, q, c.heads, stride, k, stride, v, ...geometry, rotaryDims, neox, 1.5],
      ),
    );
    expect(bytesOf(fused)).toEqual(bytesOf(apart));
    expect(bytesOf(fused)).not.toEqual(bytesOf(emptyTwins(c, [100, 100])));
    const [left, right] = [floatsFromDevice(one, rows.length), floatsFromDevice(two, rows.length)];
    for (let t = 0; t < count; t++) {
      const queries = (x: Float32Array) => bits(x.slice(t * stride, t * stride + k));
      expect(queries(right)).toEqual(queries(left));
      expect(right.slice(t * stride + k, (t + 1) * stride)).toEqual(
        rows.slice(t * stride + k, (t + 1) * stride),
      );
    }
  });
});

describe("norm_rope_kv_write", () => {
  const eps = 1e-6;

  test.each<[string, Case, number, number, number, boolean]>([
    ["wide heads, keys that are values", { ...plain, cacheType: "f16", headDim: 256 }, 256, 1, 3, true],
    [
      "the widest, part of a head",
      { ...plain, cacheType: "bf16", headDim: 512, kvHeads: 1 },
      128,
      1,
      2,
      true,
    ],
    ["q8_0, neighbours", { ...plain, cacheType: "q8_0", headDim: 96, kvHeads: 3, heads: 9 }, 48, 0, 5, false],
    ["f32, many rows", { ...plain, headDim: 48, heads: 3, kvHeads: 3 }, 34, 1, 41, false],
    ["fp8, one pair", { ...plain, cacheType: "fp8", headDim: 16, heads: 5, kvHeads: 1 }, 2, 0, 3, true],
  ])("the bits of the norms and rope_kv_write: %s", (_name, c, rotaryDims, neox, count, normValues) => {
    const tokens = [...span(0, 30, 30 + count - 1), ...span(1, 5, 6)];
    const [width, kvWidth] = [c.heads * c.headDim, c.kvHeads * c.headDim];
    const stride = 4 + width + 2 * kvWidth;
    const [q, k, v] = [4, 4 + width, 4 + width + kvWidth];
    const rows = randomFloats(count * stride, 3);
    const invFreq = onDevice(frequencies(rotaryDims));
    const [qNorm, kNorm] = [onDevice(randomFloats(c.headDim, 4)), onDevice(randomFloats(c.headDim, 5))];
    const [sequences, positions] = tokenArrays(tokens);
    const [apart, fused] = [emptyTwins(c, [100, 100]), emptyTwins(c, [100, 100])];
    const { maxPages } = apart.cpu;
    const cached = [c.kvHeads, c.headDim, c.pageSize, maxPages, dtypes[c.cacheType].id, rotaryDims, neox];
    // values that are the raw keys are normed before these
    const [keyRow, valueRow] = [k, normValues ? k : v];
    const norm = (
      to: typeof qNorm,
      from: typeof qNorm,
      w: typeof qNorm | null,
      offset: number,
      heads: number,
    ) => check(cuda.psi_rms_norm!(to, from, w, count, stride, offset, heads, c.headDim, eps));
    const [one, values] = [onDevice(rows), onDevice(rows)];
    if (normValues) norm(values, one, null, valueRow, c.kvHeads);
    norm(one, one, qNorm, q, c.heads);
    norm(one, one, kNorm, k, c.kvHeads);
    check(
      cuda.psi_rope_kv_write!(
        ...[one, apart.keys, apart.values, one, values, apart.table, sequences, positions, invFreq],
        ...[count, stride, q, c.heads, stride, keyRow, stride, valueRow, ...cached, 1.5],
      ),
    );
    const two = onDevice(rows);
    check(
      cuda.psi_norm_rope_kv_write!(
        ...[
          two,
          fused.keys,
          fused.values,
          two,
          two,
          qNorm,
          kNorm,
          fused.table,
          sequences,
          positions,
          invFreq,
        ],
        ...[count, stride, q, c.heads, stride, keyRow, stride, valueRow, ...cached],
        ...[normValues ? 1 : 0, 1.5, eps],
      ),
    );
    expect(bytesOf(fused)).toEqual(bytesOf(apart));
    expect(bytesOf(fused)).not.toEqual(bytesOf(emptyTwins(c, [100, 100])));
    const alone = onDevice(rows);
    check(
      cuda.psi_norm_rope_kv_write!(
        ...[alone, null, null, null, null, qNorm, null, fused.table, sequences, positions, invFreq],
        ...[count, stride, q, c.heads, 0, 0, 0, 0, ...cached, 1, 1.5, eps],
      ),
    );
    const results = [one, two, alone].map((x) => floatsFromDevice(x, rows.length));
    for (let t = 0; t < count; t++) {
      const [left, ...right] = results.map((x) => bits(x.slice(t * stride, t * stride + k)));
      for (const queries of right) expect(queries).toEqual(left!);
      for (const x of results.slice(1)) {
        const others = (of: Float32Array) => of.slice(t * stride + k, (t + 1) * stride);
        expect(others(x)).toEqual(others(rows));
      }
    }
  });

  test("refuses keys without values and heads outside the rows", () => {
    const at = onDevice(floats(64));
    const call = (v: typeof at | null, qStride: number) =>
      check(
        cuda.psi_norm_rope_kv_write!(
          ...[at, at, at, at, v, at, at, at, at, at, at, 1, qStride, 0, 2, 32, 0, 32, 0],
          ...[1, 32, 16, 1, 0, 32, 1, 0, 1, eps],
        ),
      );
    expect(() => call(null, 64)).toThrow(/k and v/);
    expect(() => call(at, 63)).toThrow(/inside rows of 63/);
  });
});
