import { elementCount } from "../../core/shape.ts";
import type { Op, TensorSpec } from "../op.ts";
import { elementWise, expectReal, plainSpec, realCode } from "../real.ts";
import { expectSpec, totalBytes } from "../spec.ts";

/** y = factor[0] x, or with `add` y += it. */
export const scaleBy: Op<{ readonly dtype: "f32" | "bf16"; readonly add: boolean }> = {
  name: "scale_by",
  summary: "a tensor times a number that lies on the device",
  backends: ["cuda", "metal"],
  inputs: [{ name: "x" }, { name: "factor" }],
  params: ["dtype", "add"],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "f64"],
  outputs([x, factor], p) {
    expectSpec("scale_by factor", factor, "f32", [1]);
    return [plainSpec(p.dtype, ...expectReal("scale_by", x, x?.shape ?? []).shape)];
  },
  cost: elementWise(1),
  arguments: ([y], [x, factor], p) => [
    ...[y!.address, x!.address, factor!.address, p.add ? 1 : 0, realCode(y, x), elementCount(x!.shape)],
  ],
};

export type HeadLossParams = {
  readonly scale: number;
  /** 0: none. */
  readonly softcap: number;
};

/** Bytes of logits at a time: 2 each, in whole rows. */
const logitBytes = 2 ** 30;

type Sizes = { readonly tokens: number; readonly width: number; readonly vocabulary: number };

function sizes([x, w, targets]: readonly (TensorSpec | undefined)[]): Sizes {
  const [tokens, width] = expectSpec("head_loss x", x, "bf16", [-1, -1]).shape as [number, number];
  const vocabulary = expectSpec("head_loss w", w, "bf16", [-1, width]).shape[0]!;
  expectSpec("head_loss targets", targets, "i32", [tokens]);
  return { tokens, width, vocabulary };
}

const pitchOf = (vocabulary: number): number => Math.ceil(vocabulary / 64) * 64;

/** Rows whose logits exist at a time. */
function rowsOf({ tokens, vocabulary }: Sizes): number {
  const fits = Math.max(128, Math.floor(logitBytes / (2 * pitchOf(vocabulary)) / 1024) * 1024);
  return Math.min(tokens, fits);
}

/**
 * loss [1] = scale times the sum over the rows of x [T, D] of what cross_entropy gives for the head w [V, D], with the
 * gradient of that made in the same pass: dx [T, D] and dw [V, D].
 */
export const headLoss: Op<HeadLossParams> = {
  name: "head_loss",
  summary: "scaled loss of a linear head with its gradient, logits made once",
  backends: ["cuda", "metal"],
  inputs: [{ name: "x" }, { name: "w" }, { name: "targets" }],
  params: ["scale", "softcap"],
  signature: [
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "i32",
    "i32",
    "i32",
    "i32",
    "f64",
    "f64",
    "f64",
  ],
  outputs(inputs) {
    const { tokens, width, vocabulary } = sizes(inputs);
    return [plainSpec("f32", 1), plainSpec("bf16", tokens, width), plainSpec("f32", vocabulary, width)];
  },
  scratchBytes(inputs) {
    const s = sizes(inputs);
    const rows = rowsOf(s);
    // losses of rows, logits, and sums of parts of the vocabulary for dx
    return Math.ceil(s.tokens / 16) * 64 + rows * pitchOf(s.vocabulary) * 2 + 8 * rows * s.width * 4;
  },
  cost(inputs, _p, outputs) {
    const { tokens, width, vocabulary } = sizes(inputs);
    return { flops: 6 * tokens * width * vocabulary, bytes: totalBytes(...inputs, ...outputs) };
  },
  saves: ["out1", "out2"],
  grad(f, [dloss], { out1, out2 }, _p, { wanted, place }) {
    const scaled = (made: typeof out1, i: number) => {
      if (!wanted(i)) return undefined;
      const { into, add } = place(i);
      f(scaleBy, [made, dloss], { dtype: into.dtype as "f32" | "bf16", add }, [into]);
      return into;
    };
    return [scaled(out1, 0), scaled(out2, 1)];
  },
  arguments: ([loss, dx, dw], inputs, p, scratch) => {
    const [x, w, targets] = inputs;
    const s = sizes(inputs);
    return [
      ...[loss!.address, dx!.address, dw!.address, x!.address, w!.address, targets!.address, scratch.address],
      ...[s.tokens, s.width, s.vocabulary, rowsOf(s), p.scale, p.softcap, scratch.bytes],
    ];
  },
};
