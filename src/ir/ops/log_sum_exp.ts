import type { Op } from "../op.ts";
import { expectSpec, f32Spec, totalBytes } from "../spec.ts";

/** y[r] = log(sum(exp(x[r, :]))). */
export const logSumExp: Op<Record<string, never>> = {
  name: "log_sum_exp",
  summary: "logarithm of the sum of exponentials of each row",
  inputs: [{ name: "x" }],
  params: [],
  signature: ["ptr", "ptr", "i32", "i32"],
  outputs: ([x]) => [f32Spec(expectSpec("log_sum_exp", x, "f32", [-1, -1]).shape[0]!)],
  cost: ([x]) => ({ flops: 10 * x!.shape[0]! * x!.shape[1]!, bytes: totalBytes(x) }),
  arguments: ([y], [x]) => [y!.address, x!.address, x!.shape[0]!, x!.shape[1]!],
};
