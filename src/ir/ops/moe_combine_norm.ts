import type { Op } from "../op.ts";
import { expectSpec, f32Spec, totalBytes } from "../spec.ts";
import { moeCombineAdd } from "./moe_combine_add.ts";

/** base += the chosen experts' weighted results; y = RMS norm of that times w. The bits of moe_combine_add, then rms_norm. */
export const moeCombineNorm: Op<{ readonly eps: number }> = {
  name: "moe_combine_norm",
  summary: "moe_combine_add, then the norm of the next layer",
  backends: ["cuda", "metal"],
  inputs: [{ name: "base" }, { name: "x" }, { name: "weights" }, { name: "w" }],
  params: ["eps"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "f32"],
  inPlace: 0,
  outputs([base, x, weights, w], _p) {
    const [sum] = moeCombineAdd.outputs([base, x, weights], {});
    const [tokens, width] = sum!.shape as [number, number];
    expectSpec("moe_combine_norm w", w, "f32", [width]);
    return [f32Spec(tokens, width), f32Spec(tokens, width)];
  },
  cost: ([base, x, weights, w], _p, [sum, y]) => ({
    flops: 2 * x!.shape[0]! * x!.shape[1]! + 5 * y!.shape[0]! * y!.shape[1]!,
    bytes: totalBytes(base, x, weights, w, sum, y),
  }),
  arguments: ([sum, y], [base, x, weights, w], p) => [
    ...[sum!.address, y!.address, base!.address, x!.address, weights!.address, w!.address],
    ...[weights!.shape[0]!, weights!.shape[1]!, x!.shape[1]!, p.eps],
  ],
};
