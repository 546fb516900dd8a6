import { describe, expect, test } from "bun:test";
import { randomFloats } from "../cpu/library.ts";
import { check, deviceBytes, floatsFromDevice, fromDevice, metal, onDevice, path } from "./library.ts";

describe.skipIf(!path)("add on Metal", () => {
  test.each([1, 31, 256, 1000])("%d elements are added exactly", (count) => {
    const [a, b] = [randomFloats(count, 1), randomFloats(count, 2)];
    const y = deviceBytes(4 * count);
    check(metal.psi_add!(y, onDevice(a), onDevice(b), count));
    expect(floatsFromDevice(y, count)).toEqual(a.map((v, i) => v + b[i]!));
  });

  test("a place that is no device memory, and too little of one, are refused", () => {
    const some = deviceBytes(64);
    expect(() => check(metal.psi_add!(some, new Float32Array(64), some, 16))).toThrow(
      /expected device memory/,
    );
    expect(() => check(metal.psi_add!(some, some, some, 17))).toThrow(
      /expected device memory for the 68 bytes/,
    );
    expect(() => check(metal.psi_add!(some, some, some, -1))).toThrow(/psi_add/);
    expect(() => check(metal.psi_add!(some, null, some, 1))).toThrow(/null/);
  });

  test("copies move bytes of any alignment", () => {
    const from = onDevice(new Uint8Array(100).map((_, i) => i));
    for (const [at, bytes] of [
      [0, 64],
      [4, 20],
      [1, 33],
    ] as const) {
      const to = deviceBytes(100);
      check(metal.psi_copy!(((to as number) + at) as typeof to, ((from as number) + at) as typeof to, bytes));
      const want = new Uint8Array(100).map((_, i) => (i >= at && i < at + bytes ? i : 0));
      expect(fromDevice(to, 100)).toEqual(want);
    }
  });
});
