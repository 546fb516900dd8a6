/** Every gradient rule: in f64 against differences of its own forward, in f32 against f64, over odd sizes. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import type { Shape } from "../core/shape.ts";
import { elementCount } from "../core/shape.ts";
import { trainingOps } from "../ir/ops/training.ts";
import type { Device } from "./device.ts";
import { Tape } from "./tape.ts";
import type { Tensor } from "./tensor.ts";
import * as f from "./training.ts";

/** Central differences of step 1e-5 in f64 are good to about 1e-10 of values around 1; sums of some hundred lose a little. */
const differenceTolerance = 2e-7;
/** f32 against f64, relative to the largest of a tensor: sums of some hundred products. */
const floatTolerance = 2e-5;
const step = 1e-5;

let device: Device;
beforeAll(() => {
  device = openDevice("cpu", { threads: 2 });
});
afterAll(() => device.close());

/** Numbers around 0 from a seed. */
function numbers(count: number, seed: number): Float64Array {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return Float64Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 32 - 0.5) * 1.8;
  });
}

type Real = "f32" | "f64";
type Case = {
  readonly name: string;
  /** Shapes of the inputs whose gradients are checked. */
  readonly shapes: readonly Shape[];
  run(inputs: readonly Tensor[], ints: (values: readonly number[], shape?: Shape) => Tensor): Tensor;
};

const reals = (t: Tensor): Float64Array | Float32Array => {
  const bytes = device.download(t).buffer;
  return t.dtype === "f64" ? new Float64Array(bytes) : new Float32Array(bytes);
};

/** The weighted sum of a case's result, and on request the gradient of each input. */
function evaluate(c: Case, dtype: Real, values: readonly Float64Array[], wantGradients: boolean) {
  using _scope = device.scope();
  const host = (data: Float64Array): ArrayBufferView => (dtype === "f64" ? data : Float32Array.from(data));
  const inputs = c.shapes.map((shape, i) => device.fromHost(dtype, shape, host(values[i]!)));
  const gradients = inputs.map((t) =>
    device.fromHost(dtype, t.shape, host(new Float64Array(elementCount(t.shape)))),
  );
  using tape = new Tape(
    device,
    wantGradients ? inputs.map((value, i) => ({ value, gradient: gradients[i]! })) : [],
  );
  const ints = (list: readonly number[], shape: Shape = [list.length]): Tensor =>
    device.fromHost("i32", shape, Int32Array.from(list));
  const y = c.run(inputs, ints);
  const weights = device.fromHost(dtype, y.shape, host(numbers(elementCount(y.shape), 99)));
  const loss = f.sum(f.multiply(y, weights), 0.7);
  if (wantGradients) tape.backward(loss);
  return { loss: reals(loss)[0]!, y: reals(y), gradients: wantGradients ? gradients.map(reals) : [] };
}

function checkAgainstDifferences(c: Case): void {
  const values = c.shapes.map((shape, i) => numbers(elementCount(shape), i + 1));
  const { gradients } = evaluate(c, "f64", values, true);
  for (const [i, list] of values.entries()) {
    const every = Math.max(1, Math.floor(list.length / 40));
    for (let at = 0; at < list.length; at += every) {
      const kept = list[at]!;
      list[at] = kept + step;
      const above = evaluate(c, "f64", values, false).loss;
      list[at] = kept - step;
      const below = evaluate(c, "f64", values, false).loss;
      list[at] = kept;
      const expected = (above - below) / (2 * step);
      const got = gradients[i]![at]!;
      const error = Math.abs(got - expected) / (1 + Math.abs(expected));
      if (!(error < differenceTolerance)) {
        throw new Error(`${c.name}: input ${i}, element ${at}: differences ${expected}, rule ${got}`);
      }
    }
  }
}

function checkFloat(c: Case): void {
  // the same numbers for both
  const values = c.shapes.map((shape, i) =>
    Float64Array.from(Float32Array.from(numbers(elementCount(shape), i + 1))),
  );
  const [single, double] = [evaluate(c, "f32", values, true), evaluate(c, "f64", values, true)];
  const pairs = [single.y, ...single.gradients].map(
    (a, i) => [a, [double.y, ...double.gradients][i]!] as const,
  );
  for (const [i, [got, want]] of pairs.entries()) {
    let largest = 1e-6;
    for (const v of want) largest = Math.max(largest, Math.abs(v));
    for (const [at, v] of want.entries()) {
      if (!(Math.abs(got[at]! - v) <= floatTolerance * largest)) {
        throw new Error(
          `${c.name}: tensor ${i}, element ${at}: f64 ${v}, f32 ${got[at]}, largest ${largest}`,
        );
      }
    }
  }
}

const gemmCase = (name: string, transA: boolean, transB: boolean, m: number, n: number, k: number): Case => ({
  name: `gemm ${name} ${m}x${n}x${k}`,
  shapes: [transA ? [k, m] : [m, k], transB ? [n, k] : [k, n], [n]],
  run: ([a, b, bias]) => f.gemm(a!, b!, { transA, transB, dtype: a!.dtype as Real }, bias),
});

type AttentionCase = {
  readonly name: string;
  readonly sequences: number;
  readonly length: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly window?: number;
  readonly softcap?: number;
  readonly sinks?: boolean;
  readonly documents?: boolean;
};
function attentionCase(a: AttentionCase): Case {
  const rows = a.sequences * a.length;
  const [wide, narrow] = [a.heads * a.headDim, a.kvHeads * a.headDim];
  return {
    name: `attention ${a.name}`,
    shapes: [[rows, wide], [rows, narrow], [rows, narrow], ...(a.sinks ? [[a.heads]] : [])],
    run([q, k, v, sinks], ints) {
      const cut = Math.floor(a.length / 3);
      const starts = Array.from({ length: rows }, (_, r) => (r % a.length >= cut ? cut : 0));
      const first = a.documents ? ints(starts) : undefined;
      const { length, headDim, window = 0, softcap = 0 } = a;
      const params = { length, headDim, window, softcap, scale: 1.3 };
      return f.causalAttention(q!, k!, v!, params, sinks, first);
    },
  };
}

const routed = (
  mode: "softmax" | "softmaxOfChosen",
  tokens: number,
  experts: number,
  width: number,
): Case => ({
  name: `experts ${mode} ${tokens}x${experts}`,
  shapes: [
    [tokens, width],
    [tokens, experts],
    [experts, 7, width],
    [experts, 7],
  ],
  run([x, logits, w, bias]) {
    const { ids, weights } = f.route(logits!, { used: 2, mode });
    const order = f.expertOrder(ids, experts);
    const h = f.expertDense(f.expertRows(x!, order, 2), w!, bias, order);
    return f.expertCombine(h, weights, order, 2);
  },
});

const crossEntropyCase = (tokens: number, width: number, vocabulary: number, softcap: number): Case => ({
  name: `cross entropy ${tokens}x${width}x${vocabulary}, cap ${softcap}`,
  shapes: [[tokens, width], [vocabulary, width], [vocabulary]],
  run([x, w, bias], ints) {
    const targets = Array.from({ length: tokens }, (_, t) => (t === 1 ? -1 : (t * 7919) % vocabulary));
    return f.crossEntropy(x!, w!, bias, ints(targets), { softcap });
  },
});

const rotateCase = (neox: boolean): Case => ({
  name: `rotate ${neox ? "halves" : "pairs"}`,
  shapes: [[5, 20]],
  run([x], ints) {
    const invFreq = device.fromHost("f32", [3], Float32Array.from([1, 0.1, 0.01]));
    return f.rotate(x!, ints([0, 1, 5, 70, 3]), invFreq, { headDim: 10, neox, mscale: 1.2 });
  },
});

const small: readonly Case[] = [
  gemmCase("nn", false, false, 3, 5, 7),
  gemmCase("nt", false, true, 3, 5, 7),
  gemmCase("tn", true, false, 5, 3, 4),
  gemmCase("tt", true, true, 1, 6, 3),
  {
    name: "gemm of a batch",
    shapes: [
      [2, 3, 4],
      [2, 4, 5],
    ],
    run: ([a, b]) => f.gemm(a!, b!, { transA: false, transB: false, dtype: a!.dtype as Real }),
  },
  { name: "lookup", shapes: [[6, 5]], run: ([table], ints) => f.lookup(table!, ints([1, 5, 1, 0])) },
  { name: "layer norm", shapes: [[3, 17], [17], [17]], run: ([x, w, b]) => f.layerNorm(x!, w, b, 1e-5) },
  { name: "layer norm, plain", shapes: [[2, 5]], run: ([x]) => f.layerNorm(x!, undefined, undefined, 1e-5) },
  { name: "RMS norm", shapes: [[3, 19], [19]], run: ([x, w]) => f.rootMeanSquareNorm(x!, w, 1e-6) },
  rotateCase(true),
  rotateCase(false),
  attentionCase({ name: "plain", sequences: 2, length: 5, heads: 2, kvHeads: 2, headDim: 3 }),
  attentionCase({
    name: "grouped, window, sinks",
    sequences: 1,
    length: 7,
    heads: 4,
    kvHeads: 2,
    headDim: 5,
    window: 3,
    sinks: true,
  }),
  attentionCase({
    name: "soft-cap, documents",
    sequences: 2,
    length: 6,
    heads: 3,
    kvHeads: 1,
    headDim: 4,
    softcap: 2,
    documents: true,
  }),
  ...(["silu", "gelu", "relu2"] as const).flatMap((kind): Case[] => [
    { name: kind, shapes: [[3, 7]], run: ([x]) => f.activation(x!, undefined, { kind }) },
    {
      name: `${kind} gated`,
      shapes: [
        [3, 7],
        [3, 7],
      ],
      run: ([x, up]) => f.activation(x!, up, { kind }),
    },
  ]),
  {
    name: "clamped, some beyond the limit",
    shapes: [
      [3, 7],
      [3, 7],
    ],
    run: ([x, up]) => f.activation(x!, up, { kind: "clamped", alpha: 1.702, limit: 0.5 }),
  },
  crossEntropyCase(4, 5, 9, 0),
  crossEntropyCase(3, 4, 7, 1.5),
  routed("softmaxOfChosen", 5, 4, 6),
  routed("softmax", 6, 3, 5),
  {
    name: "balance loss",
    shapes: [[5, 4]],
    run: ([logits]) => f.balanceLoss(logits!, f.route(logits!, { used: 2, mode: "softmax" }).ids),
  },
  {
    name: "mix with scales per column",
    shapes: [[4, 5], [4, 5], [5], [5]],
    run: ([a, b, wa, wb]) => f.mix(a!, b, 0.7, -1.2, wa, wb),
  },
  { name: "mix of one", shapes: [[3, 4]], run: ([a]) => f.mix(a!, undefined, 2.5) },
  { name: "head scale", shapes: [[3, 15], [3]], run: ([x, gain]) => f.headScale(x!, gain!) },
  { name: "multiply by itself", shapes: [[3, 4]], run: ([a]) => f.multiply(a!, a!) },
  {
    name: "one tensor in several places",
    shapes: [[4, 4]],
    run: ([a]) => f.mix(f.dense(a!, a!), f.activation(a!, a, { kind: "silu" })),
  },
];

const large: readonly Case[] = [
  gemmCase("nt", false, true, 131, 205, 300),
  gemmCase("nn", false, false, 33, 47, 513),
  gemmCase("tn", true, false, 97, 50, 65),
  { name: "layer norm", shapes: [[37, 387], [387], [387]], run: ([x, w, b]) => f.layerNorm(x!, w, b, 1e-5) },
  { name: "RMS norm", shapes: [[29, 130], [130]], run: ([x, w]) => f.rootMeanSquareNorm(x!, w, 1e-6) },
  attentionCase({ name: "long", sequences: 2, length: 150, heads: 2, kvHeads: 1, headDim: 33 }),
  attentionCase({
    name: "long, window, sinks, cap, documents",
    sequences: 1,
    length: 203,
    heads: 4,
    kvHeads: 2,
    headDim: 16,
    window: 70,
    softcap: 5,
    sinks: true,
    documents: true,
  }),
  crossEntropyCase(37, 50, 1003, 0),
  crossEntropyCase(9, 33, 300, 15),
  {
    name: "cross entropy over many chunks",
    shapes: [
      [16400, 3],
      [530, 3],
    ],
    run: ([x, w], ints) =>
      f.crossEntropy(x!, w!, undefined, ints(Array.from({ length: 16400 }, (_, t) => (t * 31) % 530))),
  },
  routed("softmaxOfChosen", 101, 9, 70),
  {
    name: "lookup",
    shapes: [[30, 77]],
    run: ([table], ints) => f.lookup(table!, ints(Array.from({ length: 200 }, (_, i) => (i * 13) % 30))),
  },
];

describe("rules against differences in f64", () => {
  test.each(small.map((c) => [c.name, c] as const))("%s", (_name, c) => checkAgainstDifferences(c));

  test("a wrong rule is found", () => {
    const wrong: Case = {
      name: "wrong",
      shapes: [[2, 2]],
      // the second use of a is hidden from the tape, as a forgotten term would be
      run([a]) {
        const hidden = device.fromHost(a!.dtype, a!.shape, device.download(a!));
        return f.multiply(a!, hidden);
      },
    };
    expect(() => checkAgainstDifferences(wrong)).toThrow(/differences/);
  });

  test("every op of training with a gradient is in a case", () => {
    const seen = new Set<string>();
    const hear = ({ op }: { op: { name: string } }): void => void seen.add(op.name);
    device.listeners.add(hear);
    for (const c of small)
      evaluate(
        c,
        "f64",
        c.shapes.map((s) => numbers(elementCount(s), 1)),
        true,
      );
    device.listeners.delete(hear);
    const optimisers = ["sum_squares", "clip_factor", "adam", "sgd", "momentum", "unit_norm", "muon_update"];
    // what only CUDA has is compared with the ops it stands for beside its kernels
    const own = trainingOps.filter(({ backends }) => backends?.includes("cpu"));
    const missing = own.map((op) => op.name).filter((name) => !seen.has(name));
    expect(missing.sort()).toEqual([...optimisers, "cast", "block_round"].sort());
  });
});

describe("f32 against f64", () => {
  test.each([...small, ...large].map((c) => [c.name, c] as const))("%s", (_name, c) => checkFloat(c));
});

test("the same bits from one thread and from several", () => {
  const run = (): Uint8Array[] =>
    large.flatMap((c) => {
      const values = c.shapes.map((shape, i) => numbers(elementCount(shape), i + 1));
      const { y, gradients } = evaluate(c, "f32", values, true);
      return [y, ...gradients].map((a) => new Uint8Array(a.buffer));
    });
  const two = run();
  device.close();
  device = openDevice("cpu", { threads: 1 });
  const one = run();
  device.close();
  device = openDevice("cpu", { threads: 3 });
  expect(one).toEqual(two);
  expect(run()).toEqual(two);
});

describe("bf16", () => {
  test("products of bf16 operands sum in f32; gradients pass casts in f32", () => {
    using _scope = device.scope();
    const [m, n, k] = [5, 9, 33];
    const host = (count: number, seed: number) => Float32Array.from(numbers(count, seed));
    const x = device.fromHost("f32", [m, k], host(m * k, 1));
    const w = device.fromHost("f32", [n, k], host(n * k, 2));
    const [dx, dw] = [x, w].map((t) =>
      device.fromHost("f32", t.shape, new Float32Array(elementCount(t.shape))),
    );
    using tape = new Tape(device, [
      { value: x, gradient: dx! },
      { value: w, gradient: dw! },
    ]);
    const [xb, wb] = [f.cast(x, "bf16"), f.cast(w, "bf16")];
    const y = f.dense(xb, wb);
    tape.backward(f.sum(y));
    const [xr, wr] = [xb, wb].map((t) => device.downloadF32(f.cast(t, "f32")));
    const want = Float64Array.from({ length: m * n }, (_, at) => {
      let total = 0;
      for (let p = 0; p < k; p++) total += xr![Math.floor(at / n) * k + p]! * wr![(at % n) * k + p]!;
      return total;
    });
    const got = device.downloadF32(y);
    for (const [i, v] of want.entries()) expect(Math.abs(got[i]! - v)).toBeLessThan(1e-5);
    const columns = device.downloadF32(dx!);
    for (let p = 0; p < k; p++) {
      let total = 0;
      for (let j = 0; j < n; j++) total += wr![j * k + p]!;
      expect(columns[p]!).toBeCloseTo(total, 4);
    }
  });
});

describe("tape", () => {
  const parameter = (shape: Shape, seed: number) => {
    const value = device.fromHost("f32", shape, Float32Array.from(numbers(elementCount(shape), seed)));
    const gradient = device.fromHost("f32", shape, new Float32Array(elementCount(shape)));
    return { value, gradient };
  };

  test("a checkpointed block gives the same bits and less memory", () => {
    const width = 64;
    const run = (checkpointed: boolean) => {
      using _scope = device.scope();
      const before = device.arena.mark();
      const layers = Array.from({ length: 6 }, (_, i) => parameter([width, width], i + 1));
      const x = device.fromHost("f32", [256, width], Float32Array.from(numbers(256 * width, 77)));
      using tape = new Tape(device, layers);
      let h = x;
      for (const { value } of layers) {
        const block = (u: Tensor): Tensor => {
          using _inner = device.scope();
          let v = f.rootMeanSquareNorm(u, undefined, 1e-6);
          for (let i = 0; i < 4; i++) v = f.activation(f.dense(v, value), undefined, { kind: "silu" });
          return f.mix(u, v);
        };
        h = checkpointed ? tape.checkpoint(block, h) : block(h);
      }
      tape.backward(f.sum(f.multiply(h, h)));
      const used = device.arena.mark();
      const bytes = (used.block - before.block) * 2 ** 25 + used.offset - before.offset;
      return { bytes, gradients: layers.map(({ gradient }) => device.downloadF32(gradient)) };
    };
    const [plain, kept] = [run(false), run(true)];
    expect(kept.gradients).toEqual(plain.gradients);
    expect(kept.bytes).toBeLessThan(plain.bytes / 2);
  });

  test("a checkpointed block is given all it uses; what it takes besides is refused, not lost", () => {
    using _scope = device.scope();
    const p = parameter([4, 4], 3);
    const q = parameter([4, 4], 4);
    const run = (given: boolean): void => {
      using tape = new Tape(device, [p, q]);
      const [x, other] = [f.mix(p.value, undefined, 2), f.mix(q.value, undefined, 3)];
      const y = given
        ? tape.checkpoint((a, b) => f.multiply(a!, b!), x, other)
        : tape.checkpoint((a) => f.multiply(a!, other), x);
      tape.backward(f.sum(y));
    };
    run(true);
    const values = device.downloadF32(p.value);
    expect([...device.downloadF32(q.gradient)]).toEqual([...values].map((v) => Math.fround(6 * v)));
    expect(() => run(false)).toThrow(/\[multiply\] expected what a checkpointed block was given.*Hand it/);
  });

  test("gradients of a parameter accumulate over tapes", () => {
    using _scope = device.scope();
    const p = parameter([3, 3], 5);
    for (let i = 0; i < 2; i++) {
      using tape = new Tape(device, [p]);
      tape.backward(f.sum(f.multiply(p.value, p.value)));
    }
    const values = device.downloadF32(p.value);
    expect([...device.downloadF32(p.gradient)]).toEqual([...values].map((v) => Math.fround(4 * v)));
  });

  test("what has no gradient, works in place or is a part is refused by name", async () => {
    const { softcap } = await import("./functions.ts");
    const { rowsOf } = await import("./tensor.ts");
    using _scope = device.scope();
    const p = parameter([4, 4], 5);
    using tape = new Tape(device, [p]);
    expect(() => f.fill(p.value, 1)).toThrow(/\[fill\] expected an op that is not in place/);
    expect(() => f.sum(rowsOf(p.value, 1, 2))).toThrow(/\[sum\] expected whole tensors/);
    const capped = softcap(p.value, 3);
    expect(() => tape.backward(f.sum(capped))).toThrow(/\[softcap\] expected an op with a gradient/);
  });
});
