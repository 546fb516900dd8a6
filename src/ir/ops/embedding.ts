import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { describe, dtypeCode, expectSpec, f32Spec, totalBytes } from "../spec.ts";

/** y[t] = scale * table[ids[t]]; the table may be of any dtype, in file layout or packed. */
export const embedding: Op<{ readonly scale: number }> = {
  name: "embedding",
  summary: "rows of a (quantised) table",
  inputs: [{ name: "table" }, { name: "ids" }],
  params: ["scale"],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "f32"],
  outputs([table, ids]) {
    if (table?.shape.length !== 2)
      throw unexpected("invalid_argument", "embedding", "a table [V, D]", describe(table));
    const tokens = expectSpec("embedding ids", ids, "i32", [-1]).shape[0]!;
    return [f32Spec(tokens, table.shape[1]!)];
  },
  cost: (_inputs, _p, [y]) => ({ flops: y!.shape[0]! * y!.shape[1]!, bytes: 2 * totalBytes(y) }),
  arguments: ([y], [table, ids], p) => [
    ...[y!.address, table!.address, ids!.address, y!.shape[0]!, y!.shape[1]!],
    ...[table!.shape[0]!, dtypeCode(table!), p.scale],
  ],
};
