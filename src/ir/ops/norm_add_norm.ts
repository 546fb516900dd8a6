import { unexpected } from "../../core/error.ts";
import type { Op, TensorSpec } from "../op.ts";
import { expectSpec, totalBytes } from "../spec.ts";

/** Columns of a row that kernels keep in registers through the norms; of two branches at most half as many. */
const widest = 8192;

/** Whether rows of this tensor are of a width that the fused norms take. */
export function normsFused(x: TensorSpec, branches = 1): boolean {
  const width = x.shape[1]!;
  return width % 4 === 0 && width <= widest / branches;
}

export type NormAddNormParams = { readonly eps: number; readonly scale: number };

/**
 * sum = (x + RMS norm of delta times w) * scale, written over x unless a place is given; y = RMS norm of sum times next, where
 * there is a next. Twin: rms_norm, add_scaled, rms_norm.
 */
export const normAddNorm: Op<NormAddNormParams> = {
  name: "norm_add_norm",
  summary: "norm of a branch, residual add with a scale, and the norm that follows",
  backends: ["cuda"],
  inputs: [{ name: "x" }, { name: "delta" }, { name: "w" }, { name: "next", optional: true }],
  params: ["eps", "scale"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "f32", "f32"],
  inPlace: 0,
  outputs([x, delta, w, next]) {
    const { shape } = expectSpec("norm_add_norm", x, "f32", [-1, -1]);
    expectSpec("norm_add_norm delta", delta, "f32", shape);
    expectSpec("norm_add_norm w", w, "f32", [shape[1]!]);
    if (next) expectSpec("norm_add_norm next", next, "f32", [shape[1]!]);
    if (!normsFused(x!)) {
      throw unexpected("invalid_argument", "norm_add_norm", `rows of up to ${widest} in fours`, shape[1]);
    }
    const spec = { dtype: "f32", shape, packed: false } as const;
    return next ? [spec, spec] : [spec];
  },
  cost: ([x, delta, w, next], _p, [sum, y]) => ({
    flops: 10 * x!.shape[0]! * x!.shape[1]!,
    bytes: totalBytes(x, delta, w, next, sum, y),
  }),
  arguments: ([sum, y], [x, delta, w, next], p) => [
    ...[sum!.address, y?.address ?? 0, x!.address, delta!.address, w!.address, next!.address],
    ...[x!.shape[0]!, x!.shape[1]!, p.eps, p.scale],
  ],
};
