import type { Op, TensorSpec } from "../op.ts";
import { expectReal, plainSpec, realCode, trainingBackends, wideType } from "../real.ts";
import { expectSpec, totalBytes } from "../spec.ts";

/** `softcap` 0: none. */
export type CrossEntropyParams = { readonly softcap: number };

type Sizes = { readonly tokens: number; readonly width: number; readonly vocabulary: number };

function sizes(
  x: TensorSpec | undefined,
  w: TensorSpec | undefined,
  bias: TensorSpec | undefined,
  targets: TensorSpec | undefined,
): Sizes {
  const [tokens, width] = expectReal("cross_entropy x", x, [-1, -1]).shape as [number, number];
  const vocabulary = expectReal("cross_entropy w", w, [-1, width], x).shape[0]!;
  if (bias) expectReal("cross_entropy bias", bias, [vocabulary], x);
  expectSpec("cross_entropy targets", targets, "i32", [tokens]);
  return { tokens, width, vocabulary };
}

/** Logits of this many tokens of the vocabulary exist at a time: at most 4M, at least 256 columns of them. */
const chunkOf = (tokens: number, vocabulary: number): number =>
  Math.min(vocabulary, Math.max(256, Math.floor(2 ** 22 / Math.max(tokens, 1))));

export const crossEntropyGrad: Op<CrossEntropyParams> = {
  name: "cross_entropy_grad",
  summary: "gradient of cross_entropy; those of weight and bias are added",
  backends: trainingBackends,
  inputs: [
    ...[
      { name: "dloss" },
      { name: "x" },
      { name: "w" },
      { name: "bias", optional: true },
      { name: "targets" },
    ],
    ...[{ name: "lse" }, { name: "dw", optional: true }, { name: "dbias", optional: true }],
  ],
  params: ["softcap"],
  signature: [...Array.from({ length: 10 }, () => "ptr" as const), "i32", "i32", "i32", "i32", "f64", "f64"],
  outputs([dloss, x, w, bias, targets, lse, dw, dbias]) {
    const { tokens, width, vocabulary } = sizes(x, w, bias, targets);
    for (const t of [dloss, lse]) expectReal("cross_entropy_grad dloss", t, [tokens], x);
    if (dw) expectReal("cross_entropy_grad dw", dw, [vocabulary, width], x);
    if (dbias) expectReal("cross_entropy_grad dbias", dbias, [vocabulary], x);
    return [plainSpec(x!.dtype, tokens, width)];
  },
  scratchBytes([, x, w]) {
    if (x!.dtype === "f64") return 0;
    const [tokens, width] = x!.shape as [number, number];
    const chunk = chunkOf(tokens, w!.shape[0]!);
    return 4 * (tokens * chunk + (width + 48) * (Math.max(tokens, chunk) + 48));
  },
  cost: (inputs, _p, outputs) => ({
    flops: 6 * inputs[1]!.shape[0]! * inputs[2]!.shape[0]! * inputs[2]!.shape[1]!,
    bytes: totalBytes(...inputs, ...outputs),
  }),
  arguments: ([dx], [dloss, x, w, bias, targets, lse, dw, dbias], p, scratch) => [
    ...[dx!.address, dw!.address, dbias!.address, dloss!.address, x!.address, w!.address, bias!.address],
    ...[targets!.address, lse!.address, scratch.address, x!.shape[0]!, x!.shape[1]!, w!.shape[0]!],
    ...[realCode(dx, dw, dbias, dloss, x, w, bias), p.softcap, scratch.bytes],
  ],
};

/** Loss [T] of each row of x [T, D] under softcap(x w^T + bias), made in chunks of the vocabulary; also the log-sum-exp. */
export const crossEntropy: Op<CrossEntropyParams> = {
  name: "cross_entropy",
  summary: "loss of a linear head whose logits never exist whole",
  backends: trainingBackends,
  inputs: [{ name: "x" }, { name: "w" }, { name: "bias", optional: true }, { name: "targets" }],
  params: ["softcap"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "f64", "f64"],
  outputs([x, w, bias, targets]) {
    const { tokens } = sizes(x, w, bias, targets);
    return [plainSpec(wideType(x!), tokens), plainSpec(wideType(x!), tokens)];
  },
  scratchBytes([x, w]) {
    if (x!.dtype === "f64") return 0;
    const [tokens, width] = x!.shape as [number, number];
    const chunk = chunkOf(tokens, w!.shape[0]!);
    return 4 * (tokens * (chunk + 3) + width * (chunk + 48));
  },
  cost: (inputs, _p, outputs) => ({
    flops: 2 * inputs[0]!.shape[0]! * inputs[1]!.shape[0]! * inputs[1]!.shape[1]!,
    bytes: totalBytes(...inputs, ...outputs),
  }),
  saves: ["x", "w", "bias", "targets", "out1"],
  grad(f, [dloss], { x, w, bias, targets, out1 }, p, { wanted, sum }) {
    const dw = wanted(1) ? sum(1) : undefined;
    const dbias = wanted(2) ? sum(2) : undefined;
    const [dx] = f(crossEntropyGrad, [dloss, x, w, bias, targets, out1, dw, dbias], p);
    return [dx, dw, dbias];
  },
  arguments: ([loss, lse], [x, w, bias, targets], p, scratch) => [
    ...[
      loss!.address,
      lse!.address,
      x!.address,
      w!.address,
      bias!.address,
      targets!.address,
      scratch.address,
    ],
    ...[x!.shape[0]!, x!.shape[1]!, w!.shape[0]!, realCode(loss, lse, x, w, bias), p.softcap, scratch.bytes],
  ],
};
