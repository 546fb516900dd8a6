import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { expectSpec, f32Spec, totalBytes } from "../spec.ts";
import { moeCombine } from "./moe_combine.ts";
import { type NormAddNormParams, normsFused } from "./norm_add_norm.ts";

/**
 * What norm_add_norm does for delta = RMS norm of dense times denseW + RMS norm of the experts' weighted results times expertsW.
 * Twin: moe_combine, rms_norm of both, add, norm_add_norm.
 */
export const addBranchesNorm: Op<NormAddNormParams> = {
  name: "add_branches_norm",
  summary: "norms of a dense branch and of its experts' weighted sum, then norm_add_norm of both",
  backends: ["cuda"],
  inputs: [
    ...[{ name: "x" }, { name: "dense" }, { name: "experts" }, { name: "weights" }, { name: "denseW" }],
    ...[{ name: "expertsW" }, { name: "w" }, { name: "next", optional: true }],
  ],
  params: ["eps", "scale"],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "f32", "f32"] as const),
  ],
  inPlace: 0,
  outputs([x, dense, experts, weights, denseW, expertsW, w, next]) {
    const [combined] = moeCombine.outputs([experts, weights], {});
    const { shape } = expectSpec("add_branches_norm", x, "f32", combined!.shape);
    expectSpec("add_branches_norm dense", dense, "f32", shape);
    const [tokens, width] = shape as [number, number];
    for (const [name, norm] of Object.entries({ denseW, expertsW, w, ...(next && { next }) })) {
      expectSpec(`add_branches_norm ${name}`, norm, "f32", [width]);
    }
    if (!normsFused(x!, 2)) {
      throw unexpected("invalid_argument", "add_branches_norm", "rows of up to 4096 in fours", width);
    }
    const spec = f32Spec(tokens, width);
    return next ? [spec, spec] : [spec];
  },
  cost: ([x, dense, experts, weights, denseW, expertsW, w, next], _p, [sum, y]) => ({
    flops: 20 * x!.shape[0]! * x!.shape[1]! + 2 * experts!.shape[0]! * experts!.shape[1]!,
    bytes: totalBytes(x, dense, experts, weights, denseW, expertsW, w, next, sum, y),
  }),
  arguments: ([sum, y], [x, dense, experts, weights, denseW, expertsW, w, next], p) => [
    ...[sum!.address, y?.address ?? 0, x!.address, dense!.address, experts!.address, weights!.address],
    ...[denseW!.address, expertsW!.address, w!.address, next!.address],
    ...[weights!.shape[0]!, weights!.shape[1]!, x!.shape[1]!, p.eps, p.scale],
  ],
};
