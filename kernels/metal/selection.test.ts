/** Choices: the largest of rows, the largest few, experts. */
import { describe, expect, test } from "bun:test";
import { floats, randomFloats } from "../cpu/library.ts";
import { ints, largestError, runReference } from "../cpu/twins.ts";
import { check, deviceBytes, floatsFromDevice, intsFromDevice, metal, onDevice, path } from "./library.ts";

describe.skipIf(!path)("selection on Metal", () => {
  test.each([1, 33, 1000])("argmax, top_k and log_sum_exp of rows of %d", (width) => {
    const rows = 3;
    const x = randomFloats(rows * width, width).map((v) => Math.round(v * 8) / 8);
    const device = onDevice(x);
    const [ids, lse] = [ints(new Array(rows).fill(0)), floats(rows)];
    runReference("argmax", ids, x, rows, width);
    runReference("log_sum_exp", lse, x, rows, width);
    const y = deviceBytes(64);
    check(metal.psi_argmax!(y, device, rows, width));
    expect(intsFromDevice(y, rows)).toEqual(ids);
    check(metal.psi_log_sum_exp!(y, device, rows, width));
    expect(largestError(floatsFromDevice(y, rows), lse)).toBeLessThan(2e-6);
    const k = Math.min(width, 9);
    const [values, places] = [floats(rows * k), ints(new Array(rows * k).fill(0))];
    runReference("top_k", values, places, x, rows, width, k);
    const [v, i] = [deviceBytes(4 * rows * k), deviceBytes(4 * rows * k)];
    check(metal.psi_top_k!(v, i, device, rows, width, k));
    expect(floatsFromDevice(v, rows * k)).toEqual(values);
    expect(intsFromDevice(i, rows * k)).toEqual(places);
  });

  test("NaN never wins; infinities and NaN of log_sum_exp", () => {
    const y = deviceBytes(64);
    check(metal.psi_argmax!(y, onDevice(Float32Array.of(Number.NaN, 1, 1, -Infinity)), 1, 4));
    expect([...intsFromDevice(y, 1)]).toEqual([1]);
    const rows = [
      [Infinity, 1],
      [-Infinity, -Infinity],
      [Number.NaN, 1],
    ].flat();
    check(metal.psi_log_sum_exp!(y, onDevice(Float32Array.from(rows)), 3, 2));
    expect([...floatsFromDevice(y, 3)]).toEqual([Infinity, -Infinity, Number.NaN]);
  });

  test.each([1, 2, 3])("router of mode %d", (mode) => {
    for (const [experts, used] of [
      [4, 4],
      [32, 4],
      [130, 8],
    ] as const) {
      const tokens = 3;
      const logits = randomFloats(tokens * experts, experts);
      for (const given of [false, true]) {
        const bias = given ? randomFloats(experts, 5).map((v) => v / 20) : null;
        const scales = given ? randomFloats(experts, 6) : null;
        const [ids, weights] = [ints(new Array(tokens * used).fill(0)), floats(tokens * used)];
        const sizes = [tokens, experts, used, mode, given ? 1 : 0, 1.5] as const;
        runReference("router", ids, weights, logits, bias, scales, ...sizes);
        const [i, w] = [deviceBytes(4 * ids.length), deviceBytes(4 * ids.length)];
        check(
          metal.psi_router!(
            i,
            w,
            onDevice(logits),
            bias && onDevice(bias),
            scales && onDevice(scales),
            ...sizes,
          ),
        );
        expect(intsFromDevice(i, ids.length)).toEqual(ids);
        expect(largestError(floatsFromDevice(w, ids.length), weights)).toBeLessThan(2e-6);
      }
    }
  });

  test("router: ties take the lower index, NaN comes last and each expert once", () => {
    const [i, w] = [deviceBytes(64), deviceBytes(64)];
    const logits = Float32Array.of(1, 2, 2, Number.NaN, -1, Number.NaN);
    check(metal.psi_router!(i, w, onDevice(logits), null, null, 1, 6, 6, 3, 0, 1));
    expect([...intsFromDevice(i, 6)]).toEqual([1, 2, 0, 4, 3, 5]);
    expect(() => check(metal.psi_router!(i, w, i, null, null, 1, 4, 5, 3, 0, 1))).toThrow(/psi_router/);
    expect(() => check(metal.psi_top_k!(i, w, i, 1, 4, 5))).toThrow(/psi_top_k/);
  });
});
