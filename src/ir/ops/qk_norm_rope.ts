import { unexpected } from "../../core/error.ts";
import type { Op, TensorSpec } from "../op.ts";
import { elementWise, expectReal, plainSpec, realCode } from "../real.ts";
import { expectSpec } from "../spec.ts";

export type QkNormRopeParams = {
  readonly headDim: number;
  readonly inverse: boolean;
  readonly eps: number;
};

/** Elements and number of heads that the kernels take. */
export const fusedHeads = (headDim: number, heads: number): boolean =>
  headDim % 8 === 0 && headDim <= 256 && heads <= 32;

function checked(
  x: TensorSpec | undefined,
  positions: TensorSpec | undefined,
  invFreq: TensorSpec | undefined,
  gain: TensorSpec | undefined,
  { headDim }: QkNormRopeParams,
): TensorSpec {
  const [rows, width] = expectReal("qk_norm_rope", x, [-1, -1]).shape as [number, number];
  if (width % headDim !== 0 || !fusedHeads(headDim, width / headDim)) {
    const expected = "up to 32 heads of a multiple of 8 up to 256 elements";
    throw unexpected("invalid_argument", "qk_norm_rope", expected, `rows of ${width}, heads of ${headDim}`);
  }
  expectSpec("qk_norm_rope positions", positions, "i32", [rows]);
  expectSpec("qk_norm_rope inv_freq", invFreq, "f32", [headDim / 2]);
  if (gain) expectSpec("qk_norm_rope gain", gain, "f32", [width / headDim]);
  return plainSpec(x!.dtype, rows, width);
}

const shapeArguments = (x: TensorSpec, p: QkNormRopeParams): number[] => [
  ...[x.shape[0]!, x.shape[1]! / p.headDim, p.headDim, p.inverse ? 1 : 0],
];

export const qkNormRopeGrad: Op<QkNormRopeParams> = {
  name: "qk_norm_rope_grad",
  summary: "gradient of qk_norm_rope; that of the gains is added",
  backends: ["cuda"],
  inputs: [
    ...[{ name: "dy" }, { name: "x" }, { name: "positions" }, { name: "inv_freq" }],
    ...[
      { name: "gain", optional: true },
      { name: "dgain", optional: true },
    ],
  ],
  params: ["headDim", "inverse", "eps"],
  signature: [
    ...Array.from({ length: 7 }, () => "ptr" as const),
    ...Array.from({ length: 5 }, () => "i32" as const),
    "f64",
  ],
  outputs([dy, x, positions, invFreq, gain, dgain], p) {
    const spec = checked(x, positions, invFreq, gain, p);
    expectReal("qk_norm_rope_grad dy", dy, spec.shape, spec);
    if (dgain) expectSpec("qk_norm_rope_grad dgain", dgain, "f32", gain?.shape ?? []);
    return [spec];
  },
  cost: elementWise(20),
  arguments: ([dx], [dy, x, positions, invFreq, gain, dgain], p) => [
    ...[dx!.address, dgain!.address, dy!.address, x!.address, positions!.address, invFreq!.address],
    ...[gain!.address, ...shapeArguments(x!, p), realCode(dx, undefined, dy, x), p.eps],
  ],
};

/**
 * y [T, H*E]: what attention makes of its queries and keys in one pass: each head of x over its root mean square, rotated as
 * a whole (neox), times its gain [H] where one is given.
 */
export const qkNormRope: Op<QkNormRopeParams> = {
  name: "qk_norm_rope",
  summary: "heads normalised, rotated and times a gain of each, in one pass",
  backends: ["cuda"],
  inputs: [{ name: "x" }, { name: "positions" }, { name: "inv_freq" }, { name: "gain", optional: true }],
  params: ["headDim", "inverse", "eps"],
  signature: [
    ...Array.from({ length: 5 }, () => "ptr" as const),
    ...Array.from({ length: 5 }, () => "i32" as const),
    "f64",
  ],
  outputs: ([x, positions, invFreq, gain], p) => [checked(x, positions, invFreq, gain, p)],
  cost: elementWise(12),
  saves: ["x", "positions", "inv_freq", "gain"],
  grad(f, [dy], { x, positions, inv_freq, gain }, p, { wanted, sum }) {
    const dgain = wanted(3) ? sum(3) : undefined;
    const [dx] = f(qkNormRopeGrad, [dy, x, positions, inv_freq, gain, dgain], p);
    return [dx, undefined, undefined, dgain];
  },
  arguments: ([y], [x, positions, invFreq, gain], p) => [
    ...[y!.address, x!.address, positions!.address, invFreq!.address, gain!.address],
    ...[...shapeArguments(x!, p), realCode(y, x), p.eps],
  ],
};
