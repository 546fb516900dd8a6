/** Ops that go through rows element by element, against the references. */
import type { Pointer } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { dtypes, rowBytes } from "../../src/core/dtype.ts";
import { floats, floatTypes, native, quantisedTypes, randomFloats, randomWeights } from "../cpu/library.ts";
import { ints, largestError, runReference } from "../cpu/twins.ts";
import { check, deviceBytes, floatsFromDevice, metal, onDevice, path } from "./library.ts";

const tolerance = 2e-6;

/** Output of `psi_<name>` and of its reference; arrays become device memory for the former. */
function both(
  name: string,
  count: number,
  ...args: readonly (ArrayBufferView | number | null)[]
): Float32Array[] {
  const want = floats(count);
  runReference(name, want, ...args);
  const y = deviceBytes(4 * count);
  check(metal[`psi_${name}`]!(y, ...args.map((a) => (ArrayBuffer.isView(a) ? onDevice(a) : a))));
  return [floatsFromDevice(y, count), want];
}

describe.skipIf(!path)("rows on Metal", () => {
  test.each([1, 5, 1000])("softcap and add_scaled of %d", (count) => {
    const x = randomFloats(count, 3).map((v, i) => v * (i % 3 === 0 ? 100 : 1));
    const [got, want] = both("softcap", count, x, count, 30);
    expect(largestError(got!, want!)).toBeLessThan(tolerance);
    const [sum, wanted] = both("add_scaled", count, x, randomFloats(count, 4), count, 0.25);
    expect(largestError(sum!, wanted!)).toBeLessThan(tolerance);
  });

  test("softcap of infinities is the cap", () => {
    const y = deviceBytes(64);
    check(metal.psi_softcap!(y, onDevice(Float32Array.of(Infinity, -Infinity, Number.NaN)), 3, 15));
    expect([...floatsFromDevice(y, 3)]).toEqual([15, -15, Number.NaN]);
  });

  test.each([1, 3, 257])("gather_rows of %d columns; an index outside gives NaN", (width) => {
    const x = randomFloats(6 * width, width);
    const [got, want] = both("gather_rows", 3 * width, x, ints([5, 0, 3]), 3, width, 6);
    expect(got).toEqual(want!);
    const y = deviceBytes(8 * width);
    check(metal.psi_gather_rows!(y, onDevice(x), onDevice(ints([-1, 6])), 2, width, 6));
    expect(floatsFromDevice(y, 2 * width).every(Number.isNaN)).toBe(true);
  });

  test.each([0, 1, 2])("glu of kind %d, halves of one row and rows apart", (kind) => {
    const [rows, width] = [3, 37];
    const [gate, up] = [randomFloats(rows * width, 1), randomFloats(rows * width, 2)];
    const [got, want] = both("glu", rows * width, gate, up, rows, width, width, width, kind, 1.702, 7);
    expect(largestError(got!, want!)).toBeLessThan(tolerance);
    const joined = floats(rows * 2 * width);
    for (let r = 0; r < rows; r++) {
      joined.set(gate.subarray(r * width, (r + 1) * width), 2 * r * width);
      joined.set(up.subarray(r * width, (r + 1) * width), (2 * r + 1) * width);
    }
    const [y, x] = [deviceBytes(4 * rows * width), onDevice(joined)];
    const half = ((x as number) + 4 * width) as Pointer;
    check(metal.psi_glu!(y, x, half, rows, width, 2 * width, 2 * width, kind, 1.702, 7));
    expect(floatsFromDevice(y, rows * width)).toEqual(got!);
  });

  test("gates: heads inside wider rows, one number a row, a norm with its gate", () => {
    const [rows, heads, width] = [3, 2, 40];
    const x = randomFloats(rows * heads * width, 1);
    const wide = randomFloats(rows * 200, 2);
    const [gated, want] = both("sigmoid_gate", x.length, x, wide, rows, heads, width, 200, 40, 80);
    expect(largestError(gated!, want!)).toBeLessThan(tolerance);
    const [added, sum] = both(
      "add_gated",
      x.length,
      x,
      randomFloats(x.length, 3),
      randomFloats(rows, 4),
      rows,
      heads * width,
    );
    expect(largestError(added!, sum!)).toBeLessThan(tolerance);
    const norm = [x, wide, randomFloats(width, 5), rows, heads, width, 200, 8, 1e-6] as const;
    const [normed, wanted] = both("rms_norm_gated", x.length, ...norm);
    expect(largestError(normed!, wanted!)).toBeLessThan(tolerance);
    const some = deviceBytes(64);
    expect(() => check(metal.psi_sigmoid_gate!(some, some, some, 1, 2, 8, 15, 0, 8))).toThrow(/sigmoid_gate/);
    expect(() => check(metal.psi_rms_norm_gated!(some, some, some, some, 1, 2, 8, 15, 0, 1e-6))).toThrow(
      /gate inside/,
    );
  });

  test.each([0, 1])("rope, neox %d: heads inside rows, part of a head, far positions", (neox) => {
    const [rows, stride, offset, heads, headDim, rotary] = [3, 150, 10, 2, 64, 48];
    const x = randomFloats(rows * stride, 7);
    const frequencies = floats(rotary / 2).map((_, i) => 10_000 ** (-i / (rotary / 2)));
    const want = x.slice();
    const sizes = [rows, stride, offset, heads, headDim, rotary, neox, 1.25] as const;
    const positions = ints([0, 17, 4000]);
    runReference("rope", want, positions, frequencies, ...sizes);
    const y = onDevice(x);
    check(metal.psi_rope!(y, onDevice(positions), onDevice(frequencies), ...sizes));
    // the angle is a float: its last bit at 4000 is 2e-4
    expect(largestError(floatsFromDevice(y, x.length), want)).toBeLessThan(1e-5);
  });

  test("moe_combine adds in order", () => {
    const [tokens, used, width] = [3, 4, 50];
    const x = randomFloats(tokens * used * width, 1);
    const [got, want] = both(
      "moe_combine",
      tokens * width,
      x,
      randomFloats(tokens * used, 2),
      tokens,
      used,
      width,
    );
    expect(largestError(got!, want!)).toBeLessThan(tolerance);
  });

  test.each([...floatTypes, ...quantisedTypes])("embedding of %s; an id outside gives NaN", (dtype) => {
    const { blockElements, id } = dtypes[dtype];
    const [rows, width] = [5, blockElements > 1 ? 2 * blockElements : 37];
    const table = randomWeights(dtype, rows, width, 3).subarray(0, rows * rowBytes(dtype, width));
    const want = floats(3 * width);
    native.psi_embedding_ref(want, table, ints([4, 0, 2]), 3, width, rows, id, 1.5);
    const y = deviceBytes(4 * 4 * width);
    check(metal.psi_embedding!(y, onDevice(table), onDevice(ints([4, 0, 2, 5])), 4, width, rows, id, 1.5));
    const got = floatsFromDevice(y, 4 * width);
    expect(got.subarray(0, 3 * width)).toEqual(want);
    expect(got.subarray(3 * width).every(Number.isNaN)).toBe(true);
  });
});
