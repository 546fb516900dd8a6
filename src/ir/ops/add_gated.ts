import type { Op } from "../op.ts";
import { expectSpec, f32Spec, totalBytes } from "../spec.ts";

/** y[t] = base[t] + sigmoid(gate[t]) * x[t], one gate a row: the shared expert of sparse models. */
export const addGated: Op<Record<string, never>> = {
  name: "add_gated",
  summary: "sum of two streams, the second times the sigmoid of a number per row",
  inputs: [{ name: "base" }, { name: "x" }, { name: "gate" }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "ptr", "i32", "i32"],
  outputs([base, x, gate]) {
    const [rows, width] = expectSpec("add_gated base", base, "f32", [-1, -1]).shape as [number, number];
    expectSpec("add_gated x", x, "f32", [rows, width]);
    expectSpec("add_gated gate", gate, "f32", [rows, 1]);
    return [f32Spec(rows, width)];
  },
  cost: ([base, x, gate], _p, [y]) => ({
    flops: 2 * y!.shape[0]! * y!.shape[1]!,
    bytes: totalBytes(base, x, gate, y),
  }),
  arguments: ([y], [base, x, gate]) => [
    ...[y!, base!, x!, gate!].map((t) => t.address),
    ...[x!.shape[0]!, x!.shape[1]!],
  ],
};
