import { describe, expect, test } from "bun:test";
import { chunkStateRows } from "../../src/ir/ops/gated_delta_chunks.ts";
import { type DeltaShape, places, putRows, rowsOf, splits } from "../cpu/deltanet.ts";
import { floats, randomFloats } from "../cpu/library.ts";
import { ints, largestError, runReference } from "../cpu/twins.ts";
import { type Batches, liveState, onDeviceOnly, type Places, type Step, slots, through } from "./deltanet.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice } from "./library.ts";

/** exp and division of the fast kind, as in glu. */
const gateTolerance = 2e-5;

describe("causal_conv1d", () => {
  test.each([
    [1, 2, 1],
    [17, 3, 2],
    [140, 4, 9],
    [48, 4, 70],
    [33, 8, 13],
  ])("%i channels, %i taps, %i tokens: any split gives the bits of one pass", (channels, taps, length) => {
    const stride = channels + 5;
    const w = randomFloats(channels * taps, 5);
    const x = randomFloats(3 * length * stride, channels);
    const sizes = { sequences: 3, length, width: channels, state: (taps - 1) * channels };
    const args = (slotOf: readonly number[]) => (at: Places) => [
      ...[w, at.sequences, at.positions, ints(slotOf)],
      ...[at.tokens, stride, 3, channels, taps, 3, slots],
    ];
    const go = (batches: Batches, slotOf: readonly number[]) =>
      through(onDeviceOnly("causal_conv1d", args(slotOf)), batches, sizes, [{ data: x, stride }]);
    const reference: Step = (y, state, rows, at) =>
      runReference("causal_conv1d", y, state, ...rows, ...args([4, 0, 2])(at));
    const [whole, ...others] = splits(3, length);
    const expected = through(reference, whole!, sizes, [{ data: x, stride }]);
    const got = go(whole!, [4, 0, 2]);
    expect(largestError(got.all, expected.all)).toBeLessThan(gateTolerance);
    expect(got.state).toEqual(expected.state);
    for (const batches of others) {
      const split = go(batches, [4, 0, 2]);
      expect(split.all).toEqual(got.all);
      expect(split.state).toEqual(got.state);
    }
    expect(go(whole!, [1, 3, 0]).all).toEqual(got.all);
  });

  test("a sequence without a slot begins from zeros and keeps nothing", () => {
    const [channels, taps] = [8, 4];
    const state = randomFloats(slots * 3 * channels, 1);
    const [x, w] = [randomFloats(2 * channels, 2), randomFloats(taps * channels, 3)];
    const run = (position: number, slot: number) => {
      const [y, stateAt] = [deviceBytes(4 * x.length), onDevice(state)];
      const at = [ints([0, 0]), ints([position, position + 1]), ints([slot])].map(onDevice);
      check(cuda.psi_causal_conv1d!(y, stateAt, onDevice(x), onDevice(w), ...at, 2, 8, 0, 8, taps, 1, slots));
      return { y: floatsFromDevice(y, x.length), state: floatsFromDevice(stateAt, state.length) };
    };
    for (const slot of [-1, slots]) {
      const got = run(7, slot);
      expect(got.y).toEqual(run(0, 2).y);
      expect(got.state).toEqual(state);
    }
  });
});

// from zeros, and over the end of a chunk
describe.each([0, 13])("gated_delta_step from position %i", (begin) => {
  const eps = 1e-6;
  /** A layer's inputs in rows of one tensor: gap, q k v, gap, z, a, b. */
  const layer = (shape: DeltaShape, taps: number, tokens: number) => {
    const { keyHeads, valueHeads, keyDim, valueDim } = shape;
    const values = valueHeads * valueDim;
    const channels = 2 * keyHeads * keyDim + values;
    const [offset, z] = [3, channels + 5];
    const [a, b] = [z + values, z + values + valueHeads];
    const stride = b + valueHeads + 1;
    const decay = randomFloats(valueHeads, 3).map((v) => -Math.abs(v));
    return {
      ...{ channels, values, offset, z, a, b, stride, taps, shape },
      x: randomFloats(tokens * stride, 1),
      weights: {
        ...{ conv: onDevice(randomFloats(channels * taps, 2)), decay: onDevice(decay) },
        ...{ dtBias: onDevice(randomFloats(valueHeads, 4)), norm: onDevice(randomFloats(valueDim, 5)) },
      },
    };
  };
  type Layer = ReturnType<typeof layer>;
  /** Runs batches with the three ops, or with the fused one. */
  const run = (l: Layer, batches: Batches, length: number, slotOf: readonly number[], fused: boolean) => {
    const { shape, channels, values, taps, stride, weights: w } = l;
    const { keyHeads, valueHeads, keyDim, valueDim, tiled } = shape;
    const stateSizes = [(taps - 1) * channels, valueHeads * chunkStateRows(keyDim, valueDim) * valueDim];
    const [tapsState, state] = stateSizes.map((size, i) => onDevice(randomFloats(slots * size, 20 + i)));
    const all = floats(slotOf.length * length * values);
    for (const parts of batches) {
      const at = places(parts);
      const x = onDevice(rowsOf(l.x, stride, length, parts)) as number;
      const positions = at.positions.map((position) => begin + position);
      const where = [at.sequences, positions, ints(slotOf)].map(onDevice);
      const y = deviceBytes(4 * at.tokens * values);
      const heads = [keyHeads, valueHeads, keyDim, valueDim] as const;
      if (fused) {
        const offsets = [stride, l.offset, stride, l.z, stride, l.a, stride, l.b];
        const sizes = [at.tokens, ...offsets, ...heads, taps, slotOf.length, slots, tiled ? 1 : 0];
        const inputs = [x, x, x, x, w.conv, w.decay, w.dtBias, w.norm, ...where] as never[];
        check(cuda.psi_gated_delta_step!(y, tapsState!, state!, ...inputs, ...sizes, eps));
      } else {
        const mixed = deviceBytes(4 * at.tokens * channels);
        const [read, ends] = [deviceBytes(4 * at.tokens * values), [slotOf.length, slots]];
        const convolution = [at.tokens, stride, l.offset, channels, taps, ...ends];
        check(cuda.psi_causal_conv1d!(mixed, tapsState!, x as never, w.conv, ...where, ...convolution));
        const keys = keyHeads * keyDim;
        const columns = [channels, 0, keys, 2 * keys, stride, l.a, stride, l.b];
        const inputs = [mixed, x, x, w.decay, w.dtBias, ...where] as never[];
        const sizes = [at.tokens, ...columns, ...heads, ...ends, tiled ? 1 : 0];
        check(cuda.psi_gated_delta_chunks!(read, state!, ...inputs, ...sizes));
        const norm = [at.tokens, valueHeads, valueDim, stride, l.z, eps];
        check(cuda.psi_rms_norm_gated!(y, read, x as never, w.norm, ...norm));
      }
      putRows(all, floatsFromDevice(y, at.tokens * values), values, length, parts);
    }
    const [convolved, memories] = stateSizes.map((size, i) =>
      floatsFromDevice([tapsState, state][i]!, slots * size),
    );
    const states = [convolved, liveState(memories!, shape, begin + length)];
    return { all, states };
  };

  test.each([
    [{ keyHeads: 1, valueHeads: 1, keyDim: 4, valueDim: 32, tiled: false }, 2],
    [{ keyHeads: 2, valueHeads: 4, keyDim: 32, valueDim: 32, tiled: true }, 4],
    [{ keyHeads: 2, valueHeads: 6, keyDim: 48, valueDim: 64, tiled: false }, 4],
    [{ keyHeads: 2, valueHeads: 2, keyDim: 128, valueDim: 96, tiled: true }, 3],
    [{ keyHeads: 1, valueHeads: 2, keyDim: 128, valueDim: 128, tiled: true }, 4],
  ] as const)("%j, %i taps: the bits of the three ops, in any split", (shape, taps) => {
    const length = 6;
    const l = layer(shape, taps, 3 * length);
    const [whole, ...others] = splits(3, length);
    const expected = run(l, whole!, length, [3, 0, 4], false);
    for (const batches of [whole!, ...others]) {
      const got = run(l, batches, length, [3, 0, 4], true);
      expect(got.all).toEqual(expected.all);
      expect(got.states).toEqual(expected.states);
    }
  });

  test("sequences without a slot begin from zeros and keep nothing; some have no token", () => {
    const shape = { keyHeads: 1, valueHeads: 2, keyDim: 32, valueDim: 32, tiled: true };
    const l = layer(shape, 4, 3 * 2);
    const batches = [
      [
        { sequence: 2, from: 0, count: 1 },
        { sequence: 0, from: 1, count: 1 },
      ],
    ];
    const got = run(l, batches, 2, [-1, 2, 1], true);
    const expected = run(l, batches, 2, [-1, 2, 1], false);
    expect(got).toEqual(expected);
  });

  test("heads and places that the kernel has no form for are refused", () => {
    const some = deviceBytes(1 << 16);
    const call = (keyDim: number, valueDim: number, taps: number, sequences: number, stride = 9999) => {
      const sizes = [1, stride, 0, 9999, 0, 9999, 0, 9999, 0, 1, 1, keyDim, valueDim, taps, sequences, 1, 0];
      check(cuda.psi_gated_delta_step!(...Array(14).fill(some), ...sizes, eps));
    };
    expect(() => call(32, 40, 4, 1)).toThrow(/values of 32 to 128 in 32s/);
    expect(() => call(64, 32, 4, 1)).toThrow(/1.5 times/);
    expect(() => call(32, 32, 5, 1)).toThrow(/2 to 4 taps/);
    expect(() => call(32, 32, 4, 65)).toThrow(/at most 64 tokens/);
    expect(() => call(32, 32, 4, 1, 95)).toThrow(/inside rows of 95/);
  });
});
