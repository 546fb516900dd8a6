import { dlopen } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { path as cpuPath, floats, normalisedError, randomFloats } from "../cpu/library.ts";
import { check, deviceBytes, floatsFromDevice, metal, onDevice, path } from "./library.ts";

const eps = 1e-6;
/** f32 sums in another order than the reference's f64: some 1e-7 of the values, squared. */
const tolerance = 1e-12;
const { symbols: cpu } = dlopen(cpuPath, {
  psi_rms_norm_ref: { args: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "f32"], returns: "i32" },
});

describe.skipIf(!path)("rms_norm on Metal", () => {
  const shapes: readonly [number, number, number, number, number][] = [
    [1, 64, 0, 1, 64],
    [3, 700, 0, 1, 700],
    [2, 1000, 100, 3, 128],
  ];
  test.each(shapes)("rows %d of %d from %d, %d groups of %d", (rows, stride, offset, groups, width) => {
    for (const weighted of [true, false]) {
      const x = randomFloats(rows * stride, 3);
      const w = weighted ? randomFloats(width, 4) : null;
      const want = x.slice();
      cpu.psi_rms_norm_ref(want, x, w, rows, stride, offset, groups, width, eps);
      const y = onDevice(x);
      check(metal.psi_rms_norm!(y, onDevice(x), w && onDevice(w), rows, stride, offset, groups, width, eps));
      expect(normalisedError(floatsFromDevice(y, rows * stride), want)).toBeLessThan(tolerance);
    }
  });

  test("the sum of x and delta is kept and normed: the bits of add and rms_norm", () => {
    const [rows, width] = [3, 300];
    const [x, delta, w] = [
      randomFloats(rows * width, 5),
      randomFloats(rows * width, 6),
      randomFloats(width, 7),
    ];
    const added = floats(rows * width).map((_, i) => Math.fround(x[i]! + delta[i]!));
    const apart = deviceBytes(4 * rows * width);
    check(metal.psi_rms_norm!(apart, onDevice(added), onDevice(w), rows, width, 0, 1, width, eps));
    const [sum, y] = [onDevice(x), deviceBytes(4 * rows * width)];
    check(metal.psi_add_rms_norm!(sum, y, sum, onDevice(delta), onDevice(w), rows, width, eps));
    expect(floatsFromDevice(sum, rows * width)).toEqual(added);
    expect(floatsFromDevice(y, rows * width)).toEqual(floatsFromDevice(apart, rows * width));
  });

  test("groups outside the rows are refused", () => {
    const some = deviceBytes(256);
    expect(() => check(metal.psi_rms_norm!(some, some, null, 1, 64, 1, 1, 64, eps))).toThrow(/rms_norm.*64/);
    expect(() => check(metal.psi_rms_norm!(some, null, null, 1, 64, 0, 1, 64, eps))).toThrow(/null/);
  });
});
