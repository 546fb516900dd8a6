import { describe, expect, test } from "bun:test";
import { floats, randomFloats } from "../cpu/library.ts";
import { ints, largestError, runReference } from "../cpu/twins.ts";
import { combineTitle, expectCombine } from "../moe_combine_case.ts";
import { check, cuda, deviceBytes, floatsFromDevice, intsFromDevice, memory, onDevice } from "./library.ts";

const tolerance = 3e-6;

type Case = {
  readonly logits: Float32Array;
  readonly bias?: Float32Array | undefined;
  readonly expertScale?: Float32Array | undefined;
  readonly tokens: number;
  readonly used: number;
  readonly mode: number;
  readonly normalize: number;
  readonly scale: number;
};

function route(c: Case): { readonly ids: Int32Array; readonly weights: Float32Array } {
  const count = c.tokens * c.used;
  const [ids, weights] = [onDevice(ints(Array(count).fill(-1))), onDevice(floats(count).fill(Number.NaN))];
  const experts = c.logits.length / c.tokens;
  const sizes = [c.tokens, experts, c.used, c.mode, c.normalize, c.scale];
  check(cuda.psi_router!(ids, weights, onDevice(c.logits), c.bias ? onDevice(c.bias) : null, null, ...sizes));
  return { ids: intsFromDevice(ids, count), weights: floatsFromDevice(weights, count) };
}
const one = (logits: Float32Array, used: number, mode: number, normalize: number): Case => ({
  ...{ logits, used, mode, normalize },
  ...{ tokens: 1, scale: 1 },
});

describe("router", () => {
  test.each([
    [1, 1],
    [1, 0],
    [2, 1],
    [2, 0],
    [3, 0],
  ])("mode %i, normalize %i", (mode, normalize) => {
    for (const [tokens, experts, used] of [
      [1, 1, 1],
      [5, 32, 4],
      [3, 127, 8],
      [1, 1500, 3],
    ] as const) {
      const logits = randomFloats(tokens * experts, experts);
      const bias = randomFloats(experts, 4);
      for (const b of mode === 3 ? [undefined] : [bias, undefined]) {
        const expertScale = experts === 32 ? randomFloats(experts, 6) : undefined;
        const got = route({ logits, bias: b, expertScale, tokens, used, mode, normalize, scale: 2.5 });
        const [ids, weights] = [ints(Array(tokens * used).fill(-1)), floats(tokens * used)];
        const sizes = [tokens, experts, used, mode, normalize, 2.5];
        runReference("router", ids, weights, logits, b ?? null, null, ...sizes);
        expect(got.ids).toEqual(ids);
        expect(largestError(got.weights, weights)).toBeLessThan(tolerance);
      }
    }
  });

  test("the most experts and all of them used", () => {
    const logits = randomFloats(4096, 5);
    const { ids } = route(one(logits, 40, 3, 0));
    const expected = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b).slice(0, 40);
    expect([...ids]).toEqual(expected);
    const all = route(one(randomFloats(70, 6), 70, 1, 0));
    expect([...all.ids].sort((a, b) => a - b)).toEqual([...Array(70).keys()]);
  });

  test("ties take the lower index, zeros of both signs tie", () => {
    const logits = floats(72);
    logits[0] = -0;
    logits[40] = -0;
    const { ids, weights } = route(one(logits, 3, 3, 0));
    expect([...ids]).toEqual([0, 1, 2]);
    expect(weights[0]).toBeCloseTo(1 / 3, 6);
  });

  test("experts without a number are chosen last, each once", () => {
    const logits = floats(4);
    logits.set([Number.NaN, 1, Number.NaN, 2]);
    expect([...route(one(logits, 4, 3, 0)).ids]).toEqual([3, 1, 0, 2]);
  });

  test("weights of next to nothing are divided by 2^-14, not by their sum", () => {
    const p = 1 / (1 + Math.exp(20));
    const { weights } = route(one(floats(2).fill(-20), 2, 2, 1));
    expect(weights[0]! / (p * 2 ** 14)).toBeCloseTo(1, 5);
  });

  test("a token's bits do not depend on the others", () => {
    const logits = randomFloats(9 * 33, 8);
    const all = route({ logits, tokens: 9, used: 4, mode: 1, normalize: 1, scale: 1 });
    const own = floats(33);
    own.set(logits.subarray(5 * 33, 6 * 33));
    const alone = route(one(own, 4, 1, 1));
    expect([...alone.ids]).toEqual([...all.ids.subarray(20, 24)]);
    expect([...alone.weights]).toEqual([...all.weights.subarray(20, 24)]);
  });

  test("sizes out of contract are refused", () => {
    const place = deviceBytes(64);
    const call = (experts: number, used: number, mode: number): string =>
      `${cuda.psi_router!(place, place, place, null, null, 1, experts, used, mode, 0, 1)} ${cuda.psi_last_error!()}`;
    expect(call(4097, 4, 1)).toBe(
      "1 [psi_router] expected 1 to 4096 experts and used within them, got 4097 and 4.",
    );
    expect(call(4, 5, 1)).toContain("got 4 and 5");
    expect(call(4, 2, 4)).toContain("mode 1, 2 or 3, got 4");
  });
});

describe("combine", () => {
  test.each([
    [3, 4, 37],
    [1, 1, 8],
    [2, 5, 516],
    [1, 4, 2880],
    [2, 10, 2048],
  ])(combineTitle, (t, used, width) => expectCombine(cuda, memory, [t, used, width]));
});

describe("add_norm_router", () => {
  test.each([
    [3, 516, 9, 2, 3, 0],
    [1, 2880, 32, 4, 3, 0],
    [2, 1028, 40, 3, 3, 0],
    [12, 520, 93, 5, 3, 0], // four experts a block, one in the last
    [1, 2048, 256, 8, 1, 1],
    [2, 1024, 200, 6, 2, 1],
    [1, 516, 64, 32, 1, 0],
    [1, 516, 70, 33, 3, 0], // more chosen than blocks rank
    [1, 516, 300, 8, 1, 1], // more experts than threads
  ])(
    "%i rows of %i, %i experts, %i chosen: the bits of the four ops",
    (rows, width, experts, used, mode, normalize) => {
      const [x, delta] = [randomFloats(rows * width, 1), randomFloats(rows * width, 2)];
      const [w, routerWeight, bias] = [
        randomFloats(width, 3),
        randomFloats(experts * width, 4),
        randomFloats(experts, 5),
      ];
      // every third expert is as likely as the one before it, the last ones as the first
      for (let e = 1; e < experts; e += 3) {
        routerWeight.copyWithin(e * width, (e - 1) * width, e * width);
        bias[e] = bias[e - 1]!;
      }
      routerWeight.copyWithin((experts - 1) * width, 0, width);
      bias[experts - 1] = bias[0]!;
      const [ws, rs, bs] = [onDevice(w), onDevice(routerWeight), onDevice(bias)];
      const count = rows * width;
      const apart = [onDevice(x), deviceBytes(4 * count)] as const;
      const logits = deviceBytes(4 * rows * experts);
      const chosen = [deviceBytes(4 * rows * used), deviceBytes(4 * rows * used)] as const;
      check(cuda.psi_add_rms_norm!(apart[0], apart[1], apart[0], onDevice(delta), ws, rows, width, 1e-5));
      check(cuda.psi_matmul!(logits, apart[1], rs, bs, null, rows, experts, width, 256, 0));
      check(
        cuda.psi_router!(chosen[0], chosen[1], logits, null, null, rows, experts, used, mode, normalize, 1),
      );
      const fused = [onDevice(x), deviceBytes(4 * count)] as const;
      const own = [deviceBytes(4 * rows * used), deviceBytes(4 * rows * used)] as const;
      const [sum, y] = fused;
      const sizes = [rows, width, experts, used, mode, normalize, 1e-5, 1];
      check(cuda.psi_add_norm_router!(sum, y, own[0], own[1], sum, onDevice(delta), ws, rs, bs, ...sizes));
      for (const i of [0, 1] as const) {
        expect(floatsFromDevice(fused[i], count)).toEqual(floatsFromDevice(apart[i], count));
      }
      expect(intsFromDevice(own[0], rows * used)).toEqual(intsFromDevice(chosen[0], rows * used));
      expect(floatsFromDevice(own[1], rows * used)).toEqual(floatsFromDevice(chosen[1], rows * used));
    },
  );
});

describe("norm_add_norms_router", () => {
  test.each([
    [3, 516, 9, 2],
    [1, 2816, 128, 8],
    [2, 516, 70, 3],
    [12, 520, 93, 5], // four experts a block, one in the last
  ])("%i rows of %i, %i experts: the bits of the ops apart", (rows, width, experts, used) => {
    const [x, delta] = [randomFloats(rows * width, 1), onDevice(randomFloats(rows * width, 2))];
    const [w, yW, zW, rW] = [3, 4, 5, 6].map((seed) => onDevice(randomFloats(width, seed)));
    const router = onDevice(randomFloats(experts * width, 7));
    const scales = onDevice(randomFloats(experts, 8).map(Math.abs));
    const count = rows * width;
    const room = () => deviceBytes(4 * count);
    const norm = (to: typeof delta, from: typeof delta, by: typeof w) =>
      check(cuda.psi_rms_norm!(to, from, by!, rows, width, 0, 1, width, 1e-6));
    const [o, r, logits] = [room(), room(), deviceBytes(4 * rows * experts)];
    const places = () => [onDevice(x), room(), room(), room(), room()] as const; // sum, y, z, ids, weights
    const [apart, fused] = [places(), places()];
    norm(o, delta, w);
    check(cuda.psi_add_rms_norm!(apart[0], apart[1], apart[0], o, yW!, rows, width, 1e-6));
    norm(apart[2], apart[0], zW);
    norm(r, apart[0], rW);
    check(cuda.psi_matmul!(logits, r, router, null, null, rows, experts, width, 256, 0));
    check(cuda.psi_router!(apart[3], apart[4], logits, null, scales, rows, experts, used, 1, 1, 1));
    check(
      cuda.psi_norm_add_norms_router!(
        ...[...fused, fused[0], delta, w!, yW!, zW!, rW!, router, scales],
        ...[rows, width, experts, used, 1, 1, 1e-6, 1],
      ),
    );
    for (const i of [0, 1, 2] as const)
      expect(floatsFromDevice(fused[i], count)).toEqual(floatsFromDevice(apart[i], count));
    expect(intsFromDevice(fused[3], rows * used)).toEqual(intsFromDevice(apart[3], rows * used));
    expect(floatsFromDevice(fused[4], rows * used)).toEqual(floatsFromDevice(apart[4], rows * used));
  });
});
