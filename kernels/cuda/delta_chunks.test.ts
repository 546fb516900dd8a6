/** The gated delta rule by chunks against the recurrent reference and the papers' form, over odd sizes and splits. */
import { describe, expect, test } from "bun:test";
import { chunkStateRows } from "../../src/ir/ops/gated_delta_chunks.ts";
import { chunkedDeltaRule } from "../cpu/chunked_delta_rule.ts";
import { type DeltaShape, deltaInputs, splits } from "../cpu/deltanet.ts";
import { normalisedError } from "../cpu/library.ts";
import { ints, runReference } from "../cpu/twins.ts";
import { type Batches, liveState, onDeviceOnly, type Places, type Step, slots, through } from "./deltanet.ts";
import { check, cuda, deviceBytes, onFibers } from "./library.ts";

/** Squared relative error: f32 sums over a head and over the tokens against f64. */
const tolerance = 1e-11;

const shapes: readonly (readonly [DeltaShape, number])[] = [
  [{ keyHeads: 1, valueHeads: 1, keyDim: 4, valueDim: 32, tiled: false }, 3],
  [{ keyHeads: 2, valueHeads: 4, keyDim: 32, valueDim: 32, tiled: true }, 40],
  [{ keyHeads: 1, valueHeads: 3, keyDim: 76, valueDim: 64, tiled: false }, 21],
  [{ keyHeads: 1, valueHeads: 1, keyDim: 128, valueDim: 32, tiled: true }, 19],
];

function prepare(shape: DeltaShape, length: number, gap: number) {
  const { valueHeads, keyDim, valueDim, tiled } = shape;
  const width = valueHeads * valueDim;
  const inputs = deltaInputs(shape, 3 * length, keyDim, gap);
  const data = (["qkv", "a", "b"] as const).map((name) => ({
    ...{ data: inputs[name], stride: inputs.strides[name] },
  }));
  const args = (slotOf: readonly number[]) => (at: Places) => [
    ...[inputs.decay, inputs.dtBias, at.sequences, at.positions, ints(slotOf)],
    ...[at.tokens, ...inputs.sizes, slotOf.length, slots, tiled ? 1 : 0],
  ];
  const rows = chunkStateRows(keyDim, valueDim);
  const head = rows * valueDim;
  const sizes = { sequences: 3, length, width };
  const reference: Step = (y, state, parts, at) =>
    runReference("gated_delta_rule", y, state, ...parts, ...args([3, 0, 4])(at));
  /** Of slots' heads the memories alone. */
  const memories = (state: Float32Array) =>
    Float32Array.from({ length: slots * width * keyDim }, (_, i) => {
      const one = keyDim * valueDim;
      return state[Math.floor(i / one) * head + (i % one)]!;
    });
  return {
    ...{ inputs, memories },
    go: (batches: Batches, slotOf: readonly number[]) =>
      through(
        onDeviceOnly("gated_delta_chunks", args(slotOf)),
        batches,
        { ...sizes, state: valueHeads * head },
        data,
      ),
    reference: (batches: Batches) => through(reference, batches, { ...sizes, state: width * keyDim }, data),
  };
}

describe("gated_delta_chunks", () => {
  test.each([...shapes])("%j, %i tokens: any split gives the bits of one pass", (shape, length) => {
    const { go, reference } = prepare(shape, length, 4);
    const [whole, ...others] = splits(3, length);
    const got = go(whole!, [3, 0, 4]);
    expect(normalisedError(got.all, reference(whole!).all)).toBeLessThan(tolerance);
    for (const batches of others) {
      const split = go(batches, [3, 0, 4]);
      expect(split.all).toEqual(got.all);
      expect(liveState(split.state, shape, length)).toEqual(liveState(got.state, shape, length));
    }
    expect(go(whole!, [1, 2, 0]).all).toEqual(got.all);
  });

  test("rows off 16-byte addresses give the same bits", () => {
    const shape = { keyHeads: 1, valueHeads: 2, keyDim: 64, valueDim: 32, tiled: true };
    const [even, odd] = [4, 3].map((gap) => prepare(shape, 18, gap));
    // the same numbers, at other columns
    const [from, to] = [even!.inputs, odd!.inputs];
    for (let t = 0; t < 54; t++)
      for (let i = 0; i < 2 * 64 + 2 * 32; i++) {
        const at = (gap: number) => (i < 64 ? gap + i : 2 * gap + i);
        to.qkv[t * to.strides.qkv + at(3)] = from.qkv[t * from.strides.qkv + at(4)]!;
      }
    const [whole] = splits(3, 18);
    expect(odd!.go(whole!, [3, 0, 4])).toEqual(even!.go(whole!, [3, 0, 4]));
  });

  test("the papers' form gives the same outputs and, at a chunk's end, the same state", () => {
    const shape = { keyHeads: 2, valueHeads: 2, keyDim: 32, valueDim: 32, tiled: true };
    const length = onFibers ? 64 : 304;
    const { inputs, memories, go } = prepare(shape, length, 4);
    const got = go([[{ sequence: 0, from: 0, count: length }]], [0, 1, 2]);
    const expected = chunkedDeltaRule(shape, inputs, length, 64);
    expect(normalisedError(got.all.subarray(0, length * 64), expected.y)).toBeLessThan(1e-11);
    const state = memories(got.state).subarray(0, 64 * 32);
    expect(normalisedError(state, expected.state)).toBeLessThan(1e-11);
  });

  test("sequences without a slot begin from zeros and keep nothing", () => {
    const shape = { keyHeads: 1, valueHeads: 1, keyDim: 32, valueDim: 32, tiled: true };
    const { go } = prepare(shape, 20, 4);
    const parts = [{ sequence: 1, from: 0, count: 20 }];
    const begun = go([parts], [0, 1, 2]);
    const without = go([parts], [0, -1, 2]);
    expect(without.all).toEqual(begun.all);
    expect(without.state).toEqual(go([], [0, 1, 2]).state);
    expect(begun.state).not.toEqual(without.state);
  });

  test("heads that the kernel has no form for are refused", () => {
    const some = deviceBytes(1 << 16);
    const call = (...sizes: number[]) =>
      check(cuda.psi_gated_delta_chunks!(...Array(10).fill(some), 1, ...sizes, 1, 1, 1));
    call(128, 0, 32, 64, 2, 0, 2, 0, 1, 2, 32, 32);
    expect(() => call(127, 0, 32, 64, 2, 0, 2, 0, 1, 2, 32, 32)).toThrow(/inside rows of 127/);
    expect(() => call(128, 0, 32, 64, 2, 1, 2, 0, 1, 2, 32, 32)).toThrow(/2 gates inside rows of 2/);
    expect(() => call(128, 0, 30, 60, 2, 0, 2, 0, 1, 1, 30, 32)).toThrow(/4 to 128 in fours/);
    expect(() => call(128, 0, 32, 64, 2, 0, 2, 0, 1, 1, 32, 40)).toThrow(/values in 32s/);
  });
});
