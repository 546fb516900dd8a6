import { describe, expect, test } from "bun:test";
import { type DType, dtypes, rowBytes } from "../../src/core/dtype.ts";
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
import { ints } from "../cpu/twins.ts";
import { check, deviceBytes, floatsFromDevice, metal, onDevice, path } from "./library.ts";

describe.skipIf(!path)("moe_matmul on Metal", () => {
  test.each([...floatTypes, ...quantisedTypes])("%s: rows of tokens and of slots, bias", (dtype) => {
    const { blockElements, id } = dtypes[dtype];
    const [tokens, used, experts, outputs, columns] = [3, 2, 4, 10, blockElements > 1 ? blockElements : 45];
    const w = randomWeights(dtype, experts * outputs, columns, 1).subarray(
      0,
      experts * outputs * rowBytes(dtype, columns),
    );
    const ids = ints([0, 3, 2, 2, 1, 0]);
    for (const perSlot of [0, 1]) {
      const x = randomFloats(tokens * (perSlot ? used : 1) * columns, 2);
      const bias = perSlot ? randomFloats(experts * outputs, 3) : null;
      const want = floats(tokens * used * outputs);
      const sizes = [tokens, used, experts, outputs, columns] as const;
      native.psi_moe_matmul_ref(want, x, w, bias, ids, null, ...sizes, id, perSlot, 0);
      const y = deviceBytes(4 * want.length);
      const given = [onDevice(x), onDevice(w), bias && onDevice(bias), onDevice(ids), null] as const;
      check(metal.psi_moe_matmul!(y, ...given, ...sizes, id | PACKED, perSlot, 0));
      expect(normalisedError(floatsFromDevice(y, want.length), want)).toBeLessThan(1e-11);
    }
  });

  /** The products of `rows` tokens, and the reference's. */
  function grouped(dtype: DType, ids: readonly number[], used: number, perSlot: number, columns: number) {
    const [experts, outputs, tokens] = [3, 13, ids.length / used];
    const { id } = dtypes[dtype];
    const size = experts * outputs * rowBytes(dtype, columns);
    const w = randomWeights(dtype, experts * outputs, columns, 1).subarray(0, size);
    const x = randomFloats((perSlot ? ids.length : tokens) * columns, 2);
    const bias = randomFloats(experts * outputs, 3);
    const sizes = [used, experts, outputs, columns] as const;
    const on = [onDevice(w), onDevice(bias)] as const;
    const scratch = 4 * (ids.length + 3 * experts + 16);
    const run = (from: number, to: number): Float32Array => {
      const [first, last] = perSlot ? [from * used, to * used] : [from, to];
      const own = floats((last - first) * columns);
      own.set(x.subarray(first * columns, last * columns));
      const [rows, some] = [onDevice(own), onDevice(ints(ids.slice(from * used, to * used)))];
      const y = deviceBytes(4 * (to - from) * used * outputs);
      const given = [y, rows, ...on, some, deviceBytes(scratch)] as const;
      check(metal.psi_moe_matmul!(...given, to - from, ...sizes, id | PACKED, perSlot, scratch));
      return floatsFromDevice(y, (to - from) * used * outputs);
    };
    const want = floats(ids.length * outputs);
    const inside = ints(ids.map((e) => (e >= 0 && e < experts ? e : 0)));
    native.psi_moe_matmul_ref(want, x, w, bias, inside, null, tokens, ...sizes, id, perSlot, 0);
    return { run, want, outputs, tokens };
  }

  test.each([...floatTypes, ...quantisedTypes])("%s: many slots, by their experts", (dtype) => {
    const columns = Math.max(45, dtypes[dtype].blockElements);
    const ids = [0, 2, 2, 0, 1, 2, 2, 0, 2, 0, 2, 1, 2, 2, 0, 2, 2, 1, 0, 2, 2, 0];
    const { run, want, tokens } = grouped(
      dtype,
      ids,
      2,
      0,
      dtypes[dtype].blockElements === 32 ? 64 : columns,
    );
    expect(normalisedError(run(0, tokens), want)).toBeLessThan(1e-11);
  });

  test("a slot's bits do not depend on the others; one of no expert is NaN", () => {
    const ids = [0, 2, 2, 0, 1, 2, -1, 0, 2, 0, 2, 9, 2, 2, 0, 2, 2, 1, 0, 2, 2, 0, 2, 2];
    for (const columns of [600, 37]) {
      const { run, want, outputs, tokens } = grouped("f16", ids, 1, 1, columns);
      const all = run(0, tokens);
      for (const t of [0, 5, 7, 23]) expect(run(t, t + 1)).toEqual(all.slice(t * outputs, (t + 1) * outputs));
      for (const [t, e] of ids.entries()) {
        const row = all.slice(t * outputs, (t + 1) * outputs);
        if (e === -1 || e === 9) expect(row.every(Number.isNaN)).toBe(true);
        else expect(normalisedError(row, want.slice(t * outputs, (t + 1) * outputs))).toBeLessThan(1e-11);
      }
    }
  });

  test("many slots need room for their order", () => {
    const some = deviceBytes(4096);
    expect(() =>
      check(metal.psi_moe_matmul!(some, some, some, null, some, some, 4, 2, 2, 2, 32, 0, 0, 8)),
    ).toThrow(/64 bytes of scratch, got 8/);
  });

  test("an expert that is none gives NaN in its slot alone; sizes out of contract are refused", () => {
    const [x, w, y] = [onDevice(randomFloats(32, 1)), onDevice(randomFloats(4 * 32, 2)), deviceBytes(64)];
    check(metal.psi_moe_matmul!(y, x, w, null, onDevice(ints([1, 2, -1])), null, 1, 3, 2, 2, 32, 0, 0, 0));
    expect([...floatsFromDevice(y, 6)].map(Number.isNaN)).toEqual([false, false, true, true, true, true]);
    expect(() => check(metal.psi_moe_matmul!(y, x, w, null, x, null, 1, 0, 2, 2, 32, 0, 0, 0))).toThrow(
      /moe_matmul/,
    );
  });
});
