import { describe, expect, test } from "bun:test";
import { type Part, places, putRows, rowsOf, splits } from "./deltanet.ts";
import { floats, levels, opened, randomFloats } from "./library.ts";
import { ints, largestError, run, runReference } from "./twins.ts";

/** Sums of up to 8 products, and exp. */
const tolerance = 3e-6;
const slots = 6;

type Shape = { readonly channels: number; readonly taps: number; readonly stride: number };
type Runner = (name: string, ...args: (number | ArrayBufferView | null)[]) => void;

/** All batches one after the other; the outputs by sequence, and the states. */
function through(
  call: Runner,
  { channels, taps, stride }: Shape,
  x: Float32Array,
  length: number,
  batches: readonly (readonly Part[])[],
  slotOf: readonly number[],
) {
  const state = randomFloats(slots * (taps - 1) * channels, 9);
  const w = randomFloats(channels * taps, 5);
  const all = floats(slotOf.length * length * channels);
  for (const parts of batches) {
    const { tokens, sequences, positions } = places(parts);
    const y = floats(tokens * channels);
    const rows = rowsOf(x, stride, length, parts);
    const sizes = [tokens, stride, 3, channels, taps, slotOf.length, slots];
    call("causal_conv1d", y, state, rows, w, sequences, positions, ints(slotOf), ...sizes);
    putRows(all, y, channels, length, parts);
  }
  return { all, state };
}

describe.each([...levels])("causal_conv1d on %s", (level) => {
  test.each([
    [1, 2, 1],
    [17, 3, 2],
    [48, 4, 9],
    [300, 4, 70],
    [33, 8, 13],
  ])("%i channels, %i taps, %i tokens: any split gives the bits of one pass", (channels, taps, length) => {
    const shape = { channels, taps, stride: channels + 5 };
    const slotOf = [4, 0, 2];
    const x = randomFloats(slotOf.length * length * shape.stride, channels);
    const [whole, ...others] = splits(slotOf.length, length);
    const expected = through(runReference, shape, x, length, whole!, slotOf);
    const got = opened(level, 2, () => through(run, shape, x, length, whole!, slotOf));
    expect(largestError(got.all, expected.all)).toBeLessThan(tolerance);
    expect(got.state).toEqual(expected.state);
    for (const batches of others) {
      const split = opened(level, 2, () => through(run, shape, x, length, batches, slotOf));
      expect(split.all).toEqual(got.all);
      expect(split.state).toEqual(got.state);
    }
    // the slots may lie anywhere
    const moved = opened(level, 1, () => through(run, shape, x, length, whole!, [1, 5, 3]));
    expect(moved.all).toEqual(got.all);
  });
});

test("the formula: silu of the taps over zeros, then over what came before", () => {
  const [x, w, y, state] = [floats(3), floats(2), floats(3), floats(1)];
  x.set([1, -2, 3]);
  w.set([0.5, 2]);
  state.set([100]);
  opened("", 1, () =>
    run("causal_conv1d", y, state, x, w, ints([0, 0, 0]), ints([0, 1, 2]), ints([0]), 3, 1, 0, 1, 2, 1, 1),
  );
  const silu = (v: number) => v / (1 + Math.exp(-v));
  [2, 0.5 - 4, -1 + 6].forEach((sum, t) => {
    expect(y[t]!).toBeCloseTo(silu(sum), 6);
  });
  expect(state[0]).toBe(3);
});

test("tokens out of order, slots used twice and too many taps are refused", () => {
  const f = floats(256);
  const call = (sequences: number[], positions: number[], slotOf: number[], taps = 4) =>
    opened("plain", 1, () => {
      const sizes = [sequences.length, 16, 0, 16, taps, slotOf.length, 4];
      run("causal_conv1d", f, f, f, f, ints(sequences), ints(positions), ints(slotOf), ...sizes);
    });
  expect(() => call([0, 0], [3, 5], [0])).toThrow(/position 4 after 3, got 5/);
  expect(() => call([0, 1, 0], [0, 0, 1], [0, 1])).toThrow(/stand together/);
  expect(() => call([0, 1], [0, 0], [2, 2])).toThrow(/slot of its own/);
  expect(() => call([0], [0], [4])).toThrow(/slot below 4, got 4/);
  expect(() => call([2], [0], [0, 1])).toThrow(/sequence below 2/);
  expect(() => call([0], [0], [0], 9)).toThrow(/2 to 8 taps, got 9/);
});
