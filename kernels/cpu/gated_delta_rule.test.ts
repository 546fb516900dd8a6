import { describe, expect, test } from "bun:test";
import { chunkedDeltaRule } from "./chunked_delta_rule.ts";
import { type DeltaShape, deltaInputs, type Part, places, putRows, rowsOf, splits } from "./deltanet.ts";
import { floats, levels, normalisedError, opened, randomFloats } from "./library.ts";
import { ints, run, runReference } from "./twins.ts";

/** Squared relative error: f32 sums over a head and over the tokens, against f64. */
const tolerance = 1e-11;
const slots = 5;

type Runner = (name: string, ...args: (number | ArrayBufferView | null)[]) => void;
type Inputs = ReturnType<typeof deltaInputs>;

/** All batches one after the other; the outputs by sequence, and the states. */
function through(
  call: Runner,
  shape: DeltaShape,
  inputs: Inputs,
  length: number,
  batches: readonly (readonly Part[])[],
  slotOf: readonly number[],
) {
  const { valueHeads, keyDim, valueDim, tiled } = shape;
  const width = valueHeads * valueDim;
  const state = randomFloats(slots * width * keyDim, 9);
  const all = floats(slotOf.length * length * width);
  for (const parts of batches) {
    const { tokens, sequences, positions } = places(parts);
    const y = floats(tokens * width);
    const [qkv, a, b] = (["qkv", "a", "b"] as const).map((name) =>
      rowsOf(inputs[name], inputs.strides[name], length, parts),
    );
    call(
      "gated_delta_rule",
      ...[y, state, qkv!, a!, b!, inputs.decay, inputs.dtBias, sequences, positions, ints(slotOf)],
      ...[tokens, ...inputs.sizes, slotOf.length, slots, tiled ? 1 : 0],
    );
    putRows(all, y, width, length, parts);
  }
  return { all, state };
}

const shapes: readonly (readonly [DeltaShape, number])[] = [
  [{ keyHeads: 1, valueHeads: 1, keyDim: 1, valueDim: 1, tiled: false }, 3],
  [{ keyHeads: 2, valueHeads: 4, keyDim: 7, valueDim: 21, tiled: true }, 6],
  [{ keyHeads: 2, valueHeads: 6, keyDim: 32, valueDim: 32, tiled: false }, 9],
  [{ keyHeads: 1, valueHeads: 2, keyDim: 128, valueDim: 128, tiled: true }, 24],
  [{ keyHeads: 1, valueHeads: 1, keyDim: 200, valueDim: 90, tiled: false }, 7],
];

describe.each([...levels])("gated_delta_rule on %s", (level) => {
  test.each([...shapes])("%j, %i tokens: any split gives the bits of one pass", (shape, length) => {
    const slotOf = [3, 0, 4];
    const inputs = deltaInputs(shape, slotOf.length * length, shape.keyDim);
    const [whole, ...others] = splits(slotOf.length, length);
    const expected = through(runReference, shape, inputs, length, whole!, slotOf);
    const got = opened(level, 2, () => through(run, shape, inputs, length, whole!, slotOf));
    expect(normalisedError(got.all, expected.all)).toBeLessThan(tolerance);
    expect(normalisedError(got.state, expected.state)).toBeLessThan(tolerance);
    for (const batches of others) {
      const split = opened(level, 2, () => through(run, shape, inputs, length, batches, slotOf));
      expect(split.all).toEqual(got.all);
      expect(split.state).toEqual(got.state);
    }
    const moved = opened(level, 1, () => through(run, shape, inputs, length, whole!, [1, 2, 0]));
    expect(moved.all).toEqual(got.all);
  });
});

test("the chunked form of the papers gives the same outputs and state", () => {
  const shape = { keyHeads: 2, valueHeads: 4, keyDim: 32, valueDim: 24, tiled: true };
  const [length, width, stateSize] = [150, 4 * 24, 4 * 32 * 24];
  const inputs = deltaInputs(shape, length, 21);
  const parts = [{ sequence: 0, from: 0, count: length }];
  const got = opened("", 2, () => through(run, shape, inputs, length, [parts], [0]));
  for (const chunk of [64, 50]) {
    const expected = chunkedDeltaRule(shape, inputs, length, chunk);
    expect(normalisedError(got.all.subarray(0, length * width), expected.y)).toBeLessThan(1e-10);
    expect(normalisedError(got.state.subarray(0, stateSize), expected.state)).toBeLessThan(1e-10);
  }
});

test("value heads take their key head in turn (tiled) or in groups", () => {
  for (const tiled of [true, false]) {
    const shape = { keyHeads: 2, valueHeads: 4, keyDim: 16, valueDim: 16, tiled };
    const inputs = deltaInputs(shape, 2, 5);
    const parts = [{ sequence: 0, from: 0, count: 2 }];
    const before = opened("", 1, () => through(run, shape, inputs, 2, [parts], [0])).all.slice();
    // another k of the second key head changes its value heads alone
    const kOffset = inputs.sizes[2]!;
    for (let i = 16; i < 32; i++) inputs.qkv[kOffset + i] = i;
    const after = opened("", 1, () => through(run, shape, inputs, 2, [parts], [0])).all;
    const changed = [0, 1, 2, 3].filter((h) =>
      after.subarray(h * 16, h * 16 + 16).some((v, i) => v !== before[h * 16 + i]),
    );
    expect(changed).toEqual(tiled ? [1, 3] : [2, 3]);
  }
});

test("heads outside the rows and bad head counts are refused", () => {
  const f = floats(4096);
  const i = ints([0]);
  const call = (...sizes: number[]) =>
    opened("plain", 1, () => run("gated_delta_rule", f, f, f, f, f, f, f, i, i, i, 1, ...sizes, 1, 1, 1));
  call(64, 0, 16, 32, 2, 0, 2, 0, 1, 2, 16, 16);
  expect(() => call(63, 0, 16, 32, 2, 0, 2, 0, 1, 2, 16, 16)).toThrow(/inside rows of 63/);
  expect(() => call(64, 0, 16, 32, 2, 1, 2, 0, 1, 2, 16, 16)).toThrow(/2 gates inside rows of 2/);
  expect(() => call(64, 0, 16, 32, 2, 0, 2, 0, 2, 3, 16, 16)).toThrow(/multiples of the key heads/);
  expect(() => call(999, 0, 300, 600, 2, 0, 2, 0, 1, 1, 257, 16)).toThrow(/1 to 256/);
});
