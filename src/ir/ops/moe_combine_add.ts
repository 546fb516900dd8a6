import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { describe, expectSpec, f32Spec, totalBytes } from "../spec.ts";

/**
 * y[t] = base[t] + (sum over j of weights[t, j] * x[t * used + j], in the order of j). The same bits as moe_combine and
 * add one after the other.
 */
export const moeCombineAdd: Op<Record<string, never>> = {
  name: "moe_combine_add",
  summary: "weighted sum of the chosen experts' results, added to the residual stream",
  backends: ["cuda", "metal"],
  inputs: [{ name: "base" }, { name: "x" }, { name: "weights" }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32"],
  outputs([base, x, weights]) {
    const [tokens, used] = expectSpec("moe_combine_add weights", weights, "f32", [-1, -1]).shape as [
      number,
      number,
    ];
    const width = expectSpec("moe_combine_add base", base, "f32", [tokens, -1]).shape[1]!;
    if (x?.shape[0] !== tokens * used) {
      throw unexpected("invalid_argument", "moe_combine_add", `${tokens * used} rows`, describe(x));
    }
    expectSpec("moe_combine_add x", x, "f32", [tokens * used, width]);
    return [f32Spec(tokens, width)];
  },
  cost: ([base, x, weights], _p, [y]) => ({
    flops: 2 * x!.shape[0]! * x!.shape[1]! + base!.shape[0]! * base!.shape[1]!,
    bytes: totalBytes(base, x, weights, y),
  }),
  arguments: ([y], [base, x, weights]) => [
    ...[y!.address, base!.address, x!.address, weights!.address],
    ...[weights!.shape[0]!, weights!.shape[1]!, x!.shape[1]!],
  ],
};
