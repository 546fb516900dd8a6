import { describe, expect, test } from "bun:test";
import { dtypes, rowBytes } from "../../src/core/dtype.ts";
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

  test("an expert that is none gives NaN in its slot alone; sizes out of contract are refused", () => {
    const [x, w, y] = [onDevice(randomFloats(32, 1)), onDevice(randomFloats(4 * 32, 2)), deviceBytes(64)];
    check(metal.psi_moe_matmul!(y, x, w, null, onDevice(ints([1, 2, -1])), null, 1, 3, 2, 2, 32, 0, 0, 0));
    expect([...floatsFromDevice(y, 6)].map(Number.isNaN)).toEqual([false, false, true, true, true, true]);
    expect(() => check(metal.psi_moe_matmul!(y, x, w, null, x, null, 1, 0, 2, 2, 32, 0, 0, 0))).toThrow(
      /moe_matmul/,
    );
  });
});
