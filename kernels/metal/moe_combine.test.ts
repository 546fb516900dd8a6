import { describe, expect, test } from "bun:test";
import { floats, randomFloats } from "../cpu/library.ts";
import { largestError, runReference } from "../cpu/twins.ts";
import { check, deviceBytes, floatsFromDevice, metal, onDevice, path } from "./library.ts";

const tolerance = 3e-6;

describe.skipIf(!path)("moe_combine on Metal", () => {
  test.each([
    [3, 4, 37],
    [1, 1, 8],
    [2, 5, 516],
    [1, 4, 700],
  ])(
    "%i tokens of %i experts, %i wide: alone, added to the residual with the bits of add, and normed with those of rms_norm",
    (tokens, used, width) => {
      const [x, weights] = [randomFloats(tokens * used * width, 2), randomFloats(tokens * used, 3)];
      const base = randomFloats(tokens * width, 4);
      const count = tokens * width;
      const [y, sum, fused] = [deviceBytes(4 * count), deviceBytes(4 * count), onDevice(base)];
      const [xs, ws] = [onDevice(x), onDevice(weights)];
      check(metal.psi_moe_combine!(y, xs, ws, tokens, used, width));
      const expected = floats(count);
      runReference("moe_combine", expected, x, weights, tokens, used, width);
      expect(largestError(floatsFromDevice(y, count), expected)).toBeLessThan(tolerance);
      check(metal.psi_add!(sum, onDevice(base), y, count));
      check(metal.psi_moe_combine_add!(fused, fused, xs, ws, tokens, used, width)); // in place
      expect(floatsFromDevice(fused, count)).toEqual(floatsFromDevice(sum, count));

      const norm = onDevice(randomFloats(width, 5));
      const [apart, together, total] = [deviceBytes(4 * count), deviceBytes(4 * count), onDevice(base)];
      check(metal.psi_rms_norm!(apart, fused, norm, tokens, width, 0, 1, width, 1e-5));
      check(metal.psi_moe_combine_norm!(total, together, total, xs, ws, norm, tokens, used, width, 1e-5));
      expect(floatsFromDevice(total, count)).toEqual(floatsFromDevice(sum, count));
      expect(floatsFromDevice(together, count)).toEqual(floatsFromDevice(apart, count));
    },
  );

  test("sizes out of contract are refused", () => {
    const some = deviceBytes(64);
    expect(() => check(metal.psi_moe_combine!(some, some, some, 1, 0, 4))).toThrow(/moe_combine.*positive/);
    expect(() => check(metal.psi_moe_combine_add!(some, null, some, some, 1, 1, 4))).toThrow(/null/);
    expect(() => check(metal.psi_moe_combine_norm!(some, some, some, some, some, some, 1, 1, 0, 0))).toThrow(
      /moe_combine_norm/,
    );
  });
});
