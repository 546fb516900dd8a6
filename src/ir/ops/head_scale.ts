import { unexpected } from "../../core/error.ts";
import type { Op, TensorSpec } from "../op.ts";
import { elementWise, expectReal, plainSpec, realCode, trainingBackends } from "../real.ts";

function checked(x: TensorSpec | undefined, gain: TensorSpec | undefined): TensorSpec {
  const [rows, width] = expectReal("head_scale", x, [-1, -1]).shape as [number, number];
  const heads = expectReal("head_scale gain", gain, [-1], x).shape[0]!;
  if (heads < 1 || width % heads !== 0) {
    throw unexpected("invalid_argument", "head_scale", `rows of a multiple of ${heads}`, width);
  }
  return plainSpec(x!.dtype, rows, width);
}

const shapeArguments = (x: TensorSpec, gain: TensorSpec): number[] => [
  ...[x.shape[0]!, gain.shape[0]!, x.shape[1]! / gain.shape[0]!],
];

export const headScaleGrad: Op<Record<string, never>> = {
  name: "head_scale_grad",
  summary: "gradient of head_scale; that of the gains is added",
  backends: trainingBackends,
  inputs: [{ name: "dy" }, { name: "x" }, { name: "gain" }, { name: "dgain", optional: true }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"],
  outputs([dy, x, gain, dgain]) {
    const spec = checked(x, gain);
    expectReal("head_scale_grad dy", dy, spec.shape, spec);
    if (dgain) expectReal("head_scale_grad dgain", dgain, gain!.shape, spec);
    return [spec];
  },
  cost: elementWise(3),
  arguments: ([dx], [dy, x, gain, dgain]) => [
    ...[dx!.address, dgain!.address, dy!.address, x!.address, gain!.address],
    ...[...shapeArguments(x!, gain!), realCode(dx, dgain, dy, x, gain)],
  ],
};

/** y [T, H*E]: each head of x times its gain [H]. */
export const headScale: Op<Record<string, never>> = {
  name: "head_scale",
  summary: "heads of rows times a gain of each",
  backends: trainingBackends,
  inputs: [{ name: "x" }, { name: "gain" }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"],
  outputs: ([x, gain]) => [checked(x, gain)],
  cost: elementWise(1),
  saves: ["x", "gain"],
  grad(f, [dy], { x, gain }, _p, { wanted, sum }) {
    const dgain = wanted(1) ? sum(1) : undefined;
    const [dx] = f(headScaleGrad, [dy, x, gain, dgain], {});
    return [dx, dgain];
  },
  arguments: ([y], [x, gain]) => [
    ...[y!.address, x!.address, gain!.address, ...shapeArguments(x!, gain!), realCode(y, x, gain)],
  ],
};
