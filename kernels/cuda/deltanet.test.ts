import { describe, expect, test } from "bun:test";
import { chunkedDeltaRule } from "../cpu/chunked_delta_rule.ts";
import { type DeltaShape, deltaInputs, type Part, places, putRows, rowsOf, splits } from "../cpu/deltanet.ts";
import { floats, normalisedError, randomFloats } from "../cpu/library.ts";
import { ints, largestError, runReference } from "../cpu/twins.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice, onFibers } from "./library.ts";

/** Squared relative error: f32 sums over a head and over the tokens against f64; 2e-14 on fibers. */
const tolerance = 1e-11;
/** exp and division of the fast kind, as in glu. */
const gateTolerance = 2e-5;
const slots = 5;

type Batches = readonly (readonly Part[])[];

/** One call of the op for each batch; what it says is copied from and to where it runs. */
type Step = (
  y: Float32Array,
  state: Float32Array,
  rows: readonly Float32Array[],
  at: ReturnType<typeof places>,
) => void;

/** Runs `psi_<name>` on the device: arrays go there, y and the state come back. */
function onDeviceOnly(name: string, args: (at: never) => readonly (number | ArrayBufferView)[]): Step {
  return (y, state, rows, at) => {
    const [yAt, stateAt] = [deviceBytes(y.byteLength), onDevice(state)];
    const rest = [...rows, ...args(at as never)].map((v) => (typeof v === "number" ? v : onDevice(v)));
    check(cuda[`psi_${name}`]!(yAt, stateAt, ...rest));
    y.set(floatsFromDevice(yAt, y.length));
    state.set(floatsFromDevice(stateAt, state.length));
  };
}

type Places = ReturnType<typeof places>;

/** All batches one after the other; the outputs by sequence, and the states. */
function through(
  step: Step,
  batches: Batches,
  sizes: {
    readonly sequences: number;
    readonly length: number;
    readonly width: number;
    readonly state: number;
  },
  inputs: readonly { readonly data: Float32Array; readonly stride: number }[],
) {
  const state = randomFloats(slots * sizes.state, 9);
  const all = floats(sizes.sequences * sizes.length * sizes.width);
  for (const parts of batches) {
    const at = places(parts);
    const y = floats(at.tokens * sizes.width);
    const rows = inputs.map(({ data, stride }) => rowsOf(data, stride, sizes.length, parts));
    step(y, state, rows, at);
    putRows(all, y, sizes.width, sizes.length, parts);
  }
  return { all, state };
}

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

const shapes: readonly (readonly [DeltaShape, number])[] = [
  [{ keyHeads: 1, valueHeads: 1, keyDim: 1, valueDim: 1, tiled: false }, 3],
  [{ keyHeads: 2, valueHeads: 4, keyDim: 7, valueDim: 21, tiled: true }, 6],
  [{ keyHeads: 2, valueHeads: 4, keyDim: 32, valueDim: 40, tiled: false }, 7],
  [{ keyHeads: 1, valueHeads: 2, keyDim: 128, valueDim: 64, tiled: true }, 18],
  [{ keyHeads: 1, valueHeads: 1, keyDim: 200, valueDim: 90, tiled: false }, 3],
];

describe("gated_delta_rule", () => {
  const prepare = (shape: DeltaShape, length: number, gap: number) => {
    const { valueHeads, keyDim, valueDim, tiled } = shape;
    const width = valueHeads * valueDim;
    const inputs = deltaInputs(shape, 3 * length, keyDim, gap);
    const { strides } = inputs;
    const data = (["qkv", "a", "b"] as const).map((name) => ({ data: inputs[name], stride: strides[name] }));
    const args = (slotOf: readonly number[]) => (at: Places) => [
      ...[inputs.decay, inputs.dtBias, at.sequences, at.positions, ints(slotOf)],
      ...[at.tokens, ...inputs.sizes, slotOf.length, slots, tiled ? 1 : 0],
    ];
    const sizes = { sequences: 3, length, width, state: keyDim * width };
    const reference: Step = (y, state, rows, at) =>
      runReference("gated_delta_rule", y, state, ...rows, ...args([3, 0, 4])(at));
    return {
      inputs,
      go: (batches: Batches, slotOf: readonly number[]) =>
        through(onDeviceOnly("gated_delta_rule", args(slotOf)), batches, sizes, data),
      reference: (batches: Batches) => through(reference, batches, sizes, data),
    };
  };

  test.each([...shapes])("%j, %i tokens: any split gives the bits of one pass", (shape, length) => {
    const { go, reference } = prepare(shape, length, 4);
    const [whole, ...others] = splits(3, length);
    const expected = reference(whole!);
    const got = go(whole!, [3, 0, 4]);
    expect(normalisedError(got.all, expected.all)).toBeLessThan(tolerance);
    expect(normalisedError(got.state, expected.state)).toBeLessThan(tolerance);
    for (const batches of others) {
      const split = go(batches, [3, 0, 4]);
      expect(split.all).toEqual(got.all);
      expect(split.state).toEqual(got.state);
    }
    expect(go(whole!, [1, 2, 0]).all).toEqual(got.all);
  });

  test("rows off 16-byte addresses give the same bits", () => {
    const shape = { keyHeads: 1, valueHeads: 2, keyDim: 64, valueDim: 36, tiled: true };
    const [even, odd] = [4, 3].map((gap) => prepare(shape, 4, gap));
    // the same numbers, at other columns
    const columns = 2 * 64 + 2 * 36;
    const [from, to] = [even!.inputs, odd!.inputs];
    for (let t = 0; t < 12; t++)
      for (let i = 0; i < columns; i++) {
        const at = (gap: number) => (i < 64 ? gap + i : 2 * gap + i);
        to.qkv[t * to.strides.qkv + at(3)] = from.qkv[t * from.strides.qkv + at(4)]!;
      }
    const [whole] = splits(3, 4);
    expect(odd!.go(whole!, [3, 0, 4])).toEqual(even!.go(whole!, [3, 0, 4]));
  });

  test("the chunked form of the papers gives the same outputs and state", () => {
    const shape = { keyHeads: 2, valueHeads: 2, keyDim: 32, valueDim: 24, tiled: true };
    const length = onFibers ? 70 : 300;
    const { inputs, go } = prepare(shape, length, 4);
    const got = go([[{ sequence: 0, from: 0, count: length }]], [0, 1, 2]);
    const expected = chunkedDeltaRule(shape, inputs, length, 64);
    expect(normalisedError(got.all.subarray(0, length * 48), expected.y)).toBeLessThan(1e-10);
    expect(normalisedError(got.state.subarray(0, 48 * 32), expected.state)).toBeLessThan(1e-10);
  });

  test("heads outside the rows are refused", () => {
    const some = deviceBytes(8192);
    const call = (...sizes: number[]) =>
      check(cuda.psi_gated_delta_rule!(...Array(10).fill(some), 1, ...sizes, 1, 1, 1));
    call(64, 0, 16, 32, 2, 0, 2, 0, 1, 2, 16, 16);
    expect(() => call(63, 0, 16, 32, 2, 0, 2, 0, 1, 2, 16, 16)).toThrow(/inside rows of 63/);
    expect(() => call(64, 0, 16, 32, 2, 1, 2, 0, 1, 2, 16, 16)).toThrow(/2 gates inside rows of 2/);
    expect(() => call(64, 0, 16, 32, 2, 0, 2, 0, 2, 3, 16, 16)).toThrow(/multiples of the key heads/);
    expect(() => call(999, 0, 300, 600, 2, 0, 2, 0, 1, 1, 257, 16)).toThrow(/1 to 256/);
  });
});

describe("gated_delta_step", () => {
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
    const [tapsState, state] = [(taps - 1) * channels, keyDim * values].map((size, i) =>
      onDevice(randomFloats(slots * size, 20 + i)),
    );
    const all = floats(slotOf.length * length * values);
    for (const parts of batches) {
      const at = places(parts);
      const x = onDevice(rowsOf(l.x, stride, length, parts)) as number;
      const where = [at.sequences, at.positions, ints(slotOf)].map(onDevice);
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
        check(cuda.psi_gated_delta_rule!(read, state!, ...inputs, ...sizes));
        const norm = [at.tokens, valueHeads, valueDim, stride, l.z, eps];
        check(cuda.psi_rms_norm_gated!(y, read, x as never, w.norm, ...norm));
      }
      putRows(all, floatsFromDevice(y, at.tokens * values), values, length, parts);
    }
    const states = [(taps - 1) * channels, keyDim * values].map((size, i) =>
      floatsFromDevice([tapsState, state][i]!, slots * size),
    );
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
