import type { Op } from "../op.ts";
import { expectSpec, f32Spec, totalBytes } from "../spec.ts";

/** y[r] = x[index[r]]. */
export const gatherRows: Op<Record<string, never>> = {
  name: "gather_rows",
  summary: "selected rows of a matrix",
  inputs: [{ name: "x" }, { name: "index" }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32"],
  outputs([x, index]) {
    const width = expectSpec("gather_rows", x, "f32", [-1, -1]).shape[1]!;
    const rows = expectSpec("gather_rows index", index, "i32", [-1]).shape[0]!;
    return [f32Spec(rows, width)];
  },
  cost: (_inputs, _p, [y]) => ({ flops: 0, bytes: 2 * totalBytes(y) }),
  arguments: ([y], [x, index]) => [
    ...[y!.address, x!.address, index!.address, y!.shape[0]!, y!.shape[1]!, x!.shape[0]!],
  ],
};
