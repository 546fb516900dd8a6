import type { Op } from "../op.ts";
import { expectSpec, totalBytes } from "../spec.ts";

/** `offset`, `groups`, `width` select heads inside wider rows; by default the whole row is one group. */
export type RmsNormParams = {
  readonly eps: number;
  readonly offset: number;
  readonly groups: number;
  readonly width: number;
};

/** y = x / sqrt(mean(x^2) + eps) * w over each group of each row; works in place on the selected groups. */
export const rmsNorm: Op<RmsNormParams> = {
  name: "rms_norm",
  summary: "root-mean-square norm of rows or of heads inside rows",
  inputs: [{ name: "x" }, { name: "w", optional: true }],
  params: ["eps", "offset", "groups", "width"],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "f32"],
  outputs([x, w], p) {
    const { shape } = expectSpec("rms_norm", x, "f32", [-1, -1]);
    if (w) expectSpec("rms_norm w", w, "f32", [p.width]);
    return [{ dtype: "f32", shape, packed: false }];
  },
  cost: ([x, w], p, [y]) => ({ flops: 4 * x!.shape[0]! * p.groups * p.width, bytes: totalBytes(x, w, y) }),
  arguments: ([y], [x, w], p) => {
    const [rows, stride] = x!.shape as [number, number];
    return [y!.address, x!.address, w!.address, rows, stride, p.offset, p.groups, p.width, p.eps];
  },
};

/** The same, written over its input: only the selected groups of each row change. */
export const headNorm: Op<RmsNormParams> = { ...rmsNorm, inPlace: 0 };
