import { unexpected } from "../../core/error.ts";
import type { Op, TensorSpec } from "../op.ts";
import { describe, expectSpec, f32Spec, totalBytes } from "../spec.ts";
import { moeCombineAdd } from "./moe_combine_add.ts";

/** Whether one kernel adds the shared expert too: a gate in f32, rows of 516 to 4096 in fours. */
export function sharedFused(gate: TensorSpec): boolean {
  const width = gate.shape[1]!;
  return gate.dtype === "f32" && width > 512 && width <= 4096 && width % 4 === 0;
}

/**
 * base += the chosen experts' weighted results, then += sigmoid(b . gate) * shared; y = RMS norm of that times w. The bits of
 * moe_combine_add, matmul, add_gated and rms_norm.
 */
export const moeCombineSharedNorm: Op<{ readonly eps: number }> = {
  name: "moe_combine_shared_norm",
  summary: "moe_combine_add, the shared expert by its gate, then the norm of the next layer",
  backends: ["cuda"],
  inputs: [
    ...[{ name: "base" }, { name: "x" }, { name: "weights" }, { name: "shared" }],
    ...[{ name: "b" }, { name: "gate" }, { name: "w" }],
  ],
  params: ["eps"],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "f32"] as const),
  ],
  inPlace: 0,
  outputs([base, x, weights, shared, b, gate, w], _p) {
    const where = "moe_combine_shared_norm";
    const [sum] = moeCombineAdd.outputs([base, x, weights], {});
    const [tokens, width] = sum!.shape as [number, number];
    expectSpec(`${where} shared`, shared, "f32", [tokens, width]);
    expectSpec(`${where} b`, b, "f32", [tokens, width]);
    if (!gate?.packed || gate.dtype !== "f32" || gate.shape[0] !== 1 || gate.shape[1] !== width)
      throw unexpected("invalid_argument", where, `a packed f32 weight [1, ${width}]`, describe(gate));
    expectSpec(`${where} w`, w, "f32", [width]);
    return [f32Spec(tokens, width), f32Spec(tokens, width)];
  },
  cost: ([base, x, weights, shared, b, gate, w], _p, [sum, y]) => ({
    flops: 2 * x!.shape[0]! * x!.shape[1]! + 9 * y!.shape[0]! * y!.shape[1]!,
    bytes: totalBytes(base, x, weights, shared, b, gate, w, sum, y),
  }),
  arguments: ([sum, y], [base, x, weights, shared, b, gate, w], p) => [
    ...[sum!.address, y!.address, base!.address, x!.address, weights!.address],
    ...[shared!.address, b!.address, gate!.address, w!.address],
    ...[weights!.shape[0]!, weights!.shape[1]!, x!.shape[1]!, p.eps],
  ],
};
