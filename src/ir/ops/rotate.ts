import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { elementWise, expectReal, plainSpec, realCode, trainingBackends } from "../real.ts";
import { expectSpec } from "../spec.ts";

/** As `rope`'s, for rows that are all heads; `inverse` turns the other way. */
export type RotateParams = {
  readonly headDim: number;
  readonly neox: boolean;
  readonly inverse: boolean;
  readonly mscale: number;
  /** Of the result; absent: x's. */
  readonly dtype?: "f32" | "bf16" | "f64";
};

/** Rotary position embedding that leaves its input as it is; its gradient is the rotation by the opposite angle. */
export const rotate: Op<RotateParams> = {
  name: "rotate",
  summary: "rotary position embedding, not in place, for training",
  backends: trainingBackends,
  inputs: [{ name: "x" }, { name: "positions" }, { name: "inv_freq" }],
  params: ["headDim", "neox", "inverse", "mscale", "dtype"],
  signature: ["ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "f32"],
  outputs([x, positions, invFreq], p) {
    const [rows, width] = expectReal("rotate", x, [-1, -1]).shape as [number, number];
    expectSpec("rotate positions", positions, "i32", [rows]);
    const pairs = expectSpec("rotate inv_freq", invFreq, "f32", [-1]).shape[0]!;
    if (width % p.headDim !== 0 || 2 * pairs > p.headDim) {
      throw unexpected(
        "invalid_argument",
        "rotate",
        `heads of ${p.headDim} in rows of ${width}`,
        `${pairs} pairs`,
      );
    }
    return [plainSpec(p.dtype ?? x!.dtype, rows, width)];
  },
  cost: elementWise(3),
  saves: ["x", "positions", "inv_freq"],
  grad: (f, [dy], { x, positions, inv_freq }, p) =>
    f(rotate, [dy, positions, inv_freq], {
      ...{ ...p, inverse: !p.inverse },
      dtype: x!.dtype as RotateParams["dtype"],
    }),
  arguments: ([y], [x, positions, invFreq], p) => [
    ...[y!.address, x!.address, positions!.address, invFreq!.address],
    ...[x!.shape[0]!, x!.shape[1]! / p.headDim, p.headDim, 2 * invFreq!.shape[0]!],
    ...[p.neox ? 1 : 0, p.inverse ? 1 : 0, realCode(y, x), p.mscale],
  ],
};
