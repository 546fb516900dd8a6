import type { Op } from "../op.ts";
import { expectSpec, i32Spec, totalBytes } from "../spec.ts";

/** Position of the largest value of each row; the lowest on ties, NaN never. */
export const argmax: Op<Record<string, never>> = {
  name: "argmax",
  summary: "position of the largest value of each row",
  inputs: [{ name: "x" }],
  params: [],
  signature: ["ptr", "ptr", "i32", "i32"],
  outputs: ([x]) => [i32Spec(expectSpec("argmax", x, "f32", [-1, -1]).shape[0]!)],
  cost: ([x]) => ({ flops: x!.shape[0]! * x!.shape[1]!, bytes: totalBytes(x) }),
  arguments: ([ids], [x]) => [ids!.address, x!.address, x!.shape[0]!, x!.shape[1]!],
};
