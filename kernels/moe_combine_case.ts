/** psi_moe_combine against its reference, and its fusions against the ops they stand for, in a library with memory of its own. */
import { expect } from "bun:test";
import { floats, randomFloats } from "./cpu/library.ts";
import { largestError, runReference } from "./cpu/twins.ts";
import type { Call, DeviceMemory } from "./device_memory.ts";

const tolerance = 3e-6;

export const combineTitle =
  "%i tokens of %i experts, %i wide: alone, added to the residual with the bits of add, and normed with those of rms_norm";

export function expectCombine(
  library: Readonly<Record<string, Call>>,
  { check, deviceBytes, onDevice, floatsFromDevice }: DeviceMemory,
  [tokens, used, width]: readonly [number, number, number],
): void {
  const [x, weights] = [randomFloats(tokens * used * width, 2), randomFloats(tokens * used, 3)];
  const base = randomFloats(tokens * width, 4);
  const count = tokens * width;
  const [y, sum, fused] = [deviceBytes(4 * count), deviceBytes(4 * count), onDevice(base)];
  const [xs, ws] = [onDevice(x), onDevice(weights)];
  check(library.psi_moe_combine!(y, xs, ws, tokens, used, width));
  const expected = floats(count);
  runReference("moe_combine", expected, x, weights, tokens, used, width);
  expect(largestError(floatsFromDevice(y, count), expected)).toBeLessThan(tolerance);
  check(library.psi_add!(sum, onDevice(base), y, count));
  check(library.psi_moe_combine_add!(fused, fused, xs, ws, tokens, used, width)); // in place
  expect(floatsFromDevice(fused, count)).toEqual(floatsFromDevice(sum, count));

  const norm = onDevice(randomFloats(width, 5));
  const [apart, together, total] = [deviceBytes(4 * count), deviceBytes(4 * count), onDevice(base)];
  check(library.psi_rms_norm!(apart, fused, norm, tokens, width, 0, 1, width, 1e-5));
  check(library.psi_moe_combine_norm!(total, together, total, xs, ws, norm, tokens, used, width, 1e-5));
  expect(floatsFromDevice(total, count)).toEqual(floatsFromDevice(sum, count));
  expect(floatsFromDevice(together, count)).toEqual(floatsFromDevice(apart, count));
}
