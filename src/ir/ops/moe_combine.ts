import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { describe, expectSpec, f32Spec, totalBytes } from "../spec.ts";

/** y[t] = sum over j of weights[t, j] * x[t * used + j], in the order of j. */
export const moeCombine: Op<Record<string, never>> = {
  name: "moe_combine",
  summary: "weighted sum of the chosen experts' results",
  inputs: [{ name: "x" }, { name: "weights" }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32"],
  outputs([x, weights]) {
    const [tokens, used] = expectSpec("moe_combine weights", weights, "f32", [-1, -1]).shape as [
      number,
      number,
    ];
    if (x?.shape[0] !== tokens * used) {
      throw unexpected("invalid_argument", "moe_combine", `${tokens * used} rows`, describe(x));
    }
    return [f32Spec(tokens, expectSpec("moe_combine", x, "f32", [-1, -1]).shape[1]!)];
  },
  cost: ([x, weights], _p, [y]) => ({
    flops: 2 * x!.shape[0]! * x!.shape[1]!,
    bytes: totalBytes(x, weights, y),
  }),
  arguments: ([y], [x, weights]) => [
    ...[y!.address, x!.address, weights!.address, weights!.shape[0]!, weights!.shape[1]!, x!.shape[1]!],
  ],
};
