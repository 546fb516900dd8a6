import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { expectSpec, f32Spec, i32Spec, totalBytes } from "../spec.ts";

/** The k largest values of each row and their positions, descending; the lower position first on ties. */
export const topK: Op<{ readonly k: number }> = {
  name: "top_k",
  summary: "largest values of each row and their positions",
  inputs: [{ name: "x" }],
  params: ["k"],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32"],
  outputs([x], p) {
    const [rows, width] = expectSpec("top_k", x, "f32", [-1, -1]).shape as [number, number];
    if (!(p.k >= 1 && p.k <= width)) throw unexpected("invalid_argument", "top_k", `k in 1..${width}`, p.k);
    return [f32Spec(rows, p.k), i32Spec(rows, p.k)];
  },
  cost: ([x]) => ({ flops: x!.shape[0]! * x!.shape[1]!, bytes: totalBytes(x) }),
  arguments: ([values, ids], [x], p) => [
    ...[values!.address, ids!.address, x!.address, x!.shape[0]!, x!.shape[1]!, p.k],
  ],
};
