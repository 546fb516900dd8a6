import { unexpected } from "../../core/error.ts";
import type { Op, TensorSpec } from "../op.ts";
import { expectReal, plainSpec, realCode, trainingBackends, wideType } from "../real.ts";
import { expectSpec, totalBytes } from "../spec.ts";

export type CausalAttentionParams = {
  /** Rows of a sequence; the rows of all inputs are whole sequences. */
  readonly length: number;
  readonly headDim: number;
  readonly scale: number;
  /** 0: everything before; otherwise the last `window` positions, the row's own included. */
  readonly window: number;
  /** 0: none. */
  readonly softcap: number;
  /** Gradients of bf16 q and k are f32, for what turns them back and sums them before they are rounded. */
  readonly wideGradients?: boolean;
};

type Sizes = {
  readonly rows: number;
  readonly sequences: number;
  readonly heads: number;
  readonly kvHeads: number;
};

function sizes(
  q: TensorSpec | undefined,
  k: TensorSpec | undefined,
  v: TensorSpec | undefined,
  sinks: TensorSpec | undefined,
  first: TensorSpec | undefined,
  p: CausalAttentionParams,
): Sizes {
  const [rows, wide] = expectReal("causal_attention q", q, [-1, -1]).shape as [number, number];
  const narrow = expectReal("causal_attention k", k, [rows, -1], q).shape[1]!;
  expectReal("causal_attention v", v, [rows, narrow], q);
  const [heads, kvHeads] = [wide / p.headDim, narrow / p.headDim];
  if (!(p.length >= 1) || rows % p.length !== 0 || heads % kvHeads !== 0 || narrow % p.headDim !== 0) {
    const got = `${rows} rows of ${wide}, keys of ${narrow}, length ${p.length}, head ${p.headDim}`;
    throw unexpected("invalid_argument", "causal_attention", "whole sequences and grouped heads", got);
  }
  if (sinks) expectReal("causal_attention sinks", sinks, [heads], q);
  if (first) expectSpec("causal_attention first", first, "i32", [rows]);
  return { rows, sequences: rows / p.length, heads, kvHeads };
}

const shapeArguments = (q: TensorSpec, k: TensorSpec, code: number, p: CausalAttentionParams): number[] => [
  ...[q.shape[0]! / p.length, p.length, q.shape[1]! / p.headDim, k.shape[1]! / p.headDim],
  ...[p.headDim, p.window, code, p.scale, p.softcap],
];
const params = ["length", "headDim", "scale", "window", "softcap", "wideGradients"];
const shapeSignature = ["i32", "i32", "i32", "i32", "i32", "i32", "i32", "f64", "f64"] as const;

export const causalAttentionGrad: Op<CausalAttentionParams> = {
  name: "causal_attention_grad",
  summary: "gradient of causal_attention; that of the sinks is added",
  backends: trainingBackends,
  inputs: [
    ...[{ name: "dy" }, { name: "q" }, { name: "k" }, { name: "v" }, { name: "y" }, { name: "lse" }],
    ...[
      { name: "rest", optional: true },
      { name: "sinks", optional: true },
      { name: "first", optional: true },
      { name: "dsinks", optional: true },
    ],
  ],
  params,
  signature: [...Array.from({ length: 14 }, () => "ptr" as const), ...shapeSignature, "f64"],
  outputs([dy, q, k, v, y, lse, rest, sinks, first, dsinks], p) {
    const { rows, heads } = sizes(q, k, v, sinks, first, p);
    for (const t of [dy, y]) expectReal("causal_attention_grad dy", t, q!.shape, q);
    expectReal("causal_attention_grad lse", lse, [rows, heads], q);
    if (rest) expectReal("causal_attention_grad rest", rest, q!.shape, q);
    if (dsinks) expectReal("causal_attention_grad dsinks", dsinks, [heads], q);
    const type = p.wideGradients ? wideType(q!) : q!.dtype;
    return [plainSpec(type, ...q!.shape), plainSpec(type, ...k!.shape), plainSpec(v!.dtype, ...v!.shape)];
  },
  // two numbers a row of a head, in whole tiles of 64 rows, and two a sequence of a head
  scratchBytes: ([, q], p) =>
    (q!.shape[1]! / p.headDim) * (q!.shape[0]! / p.length) * 8 * (64 * Math.ceil(p.length / 64) + 1),
  cost: (inputs, p, outputs) => ({
    flops: 5 * inputs[1]!.shape[0]! * p.length * inputs[1]!.shape[1]!,
    bytes: totalBytes(...inputs, ...outputs),
  }),
  arguments: ([dq, dk, dv], [dy, q, k, v, y, lse, rest, sinks, first, dsinks], p, scratch) => [
    ...[
      dq!.address,
      dk!.address,
      dv!.address,
      dsinks!.address,
      dy!.address,
      q!.address,
      k!.address,
      v!.address,
    ],
    ...[y!.address, lse!.address, rest!.address, sinks!.address, first!.address, scratch.address],
    ...shapeArguments(q!, k!, realCode(dq, dk, dv, dsinks, dy, q, k, v, y, lse, rest, sinks), p),
    scratch.bytes,
  ],
};

/**
 * Attention of sequences over themselves, without a cache. q [rows, H*E], k and v [rows, K*E]; `first` i32 [rows] is the
 * first position that a row sees (documents packed into one sequence). Also returns the log of each softmax's denominator
 * and, where y is bf16, what rounding took from it as bf16: the gradient takes a row's sum of p (dy.v) to be dy.y, and from
 * p (dy.v - dy.y) most cancels, the roundings of y do not.
 */
export const causalAttention: Op<CausalAttentionParams> = {
  name: "causal_attention",
  summary: "causal attention of whole sequences, for training",
  backends: trainingBackends,
  inputs: [
    ...[{ name: "q" }, { name: "k" }, { name: "v" }],
    ...[
      { name: "sinks", optional: true },
      { name: "first", optional: true },
    ],
  ],
  params,
  signature: [...Array.from({ length: 8 }, () => "ptr" as const), ...shapeSignature],
  outputs([q, k, v, sinks, first], p) {
    const { rows, heads } = sizes(q, k, v, sinks, first, p);
    const y = plainSpec(q!.dtype, ...q!.shape);
    const lse = plainSpec(wideType(q!), rows, heads);
    return y.dtype === "bf16" ? [y, lse, y] : [y, lse];
  },
  cost: (inputs, p, outputs) => ({
    flops: 2 * inputs[0]!.shape[0]! * p.length * inputs[0]!.shape[1]!,
    bytes: totalBytes(...inputs, ...outputs),
  }),
  saves: ["q", "k", "v", "sinks", "first", "out0", "out1", "out2"],
  grad(f, [dy], { q, k, v, sinks, first, out0, out1, out2 }, p, { wanted, sum }) {
    const dsinks = wanted(3) ? sum(3) : undefined;
    const [dq, dk, dv] = f(causalAttentionGrad, [dy, q, k, v, out0, out1, out2, sinks, first, dsinks], p);
    return [dq, dk, dv, dsinks];
  },
  arguments: ([y, lse, rest], [q, k, v, sinks, first], p) => [
    ...[y!.address, lse!.address, rest?.address ?? 0, q!.address, k!.address, v!.address],
    ...[sinks!.address, first!.address],
    ...shapeArguments(q!, k!, realCode(y, lse, rest, q, k, v, sinks), p),
  ],
};
