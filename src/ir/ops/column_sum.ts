import type { Op } from "../op.ts";
import { expectReal, plainSpec, realCode, trainingBackends, wideType } from "../real.ts";
import { expectSpec, totalBytes } from "../spec.ts";

/** y[g, n] += sum over the rows of group g of x; y [N] is one group of all rows. */
export const columnSum: Op<Record<string, never>> = {
  name: "column_sum",
  summary: "sums of columns, added to what is there: gradients of biases",
  backends: trainingBackends,
  inputs: [{ name: "y" }, { name: "x" }, { name: "starts", optional: true }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"],
  inPlace: 0,
  outputs([y, x, starts]) {
    const width = expectReal("column_sum x", x, [-1, -1]).shape[1]!;
    const groups = starts ? expectSpec("column_sum starts", starts, "i32", [-1]).shape[0]! - 1 : 1;
    const shape = starts ? [groups, width] : [width];
    expectReal("column_sum y", y, shape, x);
    return [plainSpec(wideType(x!), ...shape)];
  },
  cost: ([y, x]) => ({ flops: x!.shape[0]! * x!.shape[1]!, bytes: totalBytes(y, x) }),
  arguments: ([y], [, x, starts]) => [
    ...[y!.address, x!.address, starts!.address, x!.shape[0]!, x!.shape[1]!],
    ...[starts!.address === 0 ? 1 : starts!.shape[0]! - 1, realCode(y, x)],
  ],
};
