import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { expectSpec, f32Spec, totalBytes } from "../spec.ts";

/** The gate of head h begins at column offset + h * headStride of its rows. */
export type SigmoidGateParams = {
  readonly heads: number;
  readonly offset: number;
  readonly headStride: number;
};

/** y = x * sigmoid(gate), for x [T, H * E] and a gate whose heads may stand apart in wider rows. */
export const sigmoidGate: Op<SigmoidGateParams> = {
  name: "sigmoid_gate",
  summary: "heads times the sigmoid of a gate inside wider rows",
  inputs: [{ name: "x" }, { name: "gate" }],
  params: ["heads", "offset", "headStride"],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "i32"],
  outputs([x, gate], { heads, offset, headStride }) {
    const [rows, width] = expectSpec("sigmoid_gate x", x, "f32", [-1, -1]).shape as [number, number];
    const columns = expectSpec("sigmoid_gate gate", gate, "f32", [rows, -1]).shape[1]!;
    const head = width / heads;
    const fits = offset >= 0 && headStride >= head && offset + (heads - 1) * headStride + head <= columns;
    if (!Number.isInteger(head) || !fits) {
      const wanted = `whole heads with gates inside rows of ${columns}`;
      const got = `${heads} heads in ${width} columns, gates ${headStride} apart from ${offset}`;
      throw unexpected("invalid_argument", "sigmoid_gate", wanted, got);
    }
    return [f32Spec(rows, width)];
  },
  cost: ([x], _p, [y]) => ({
    flops: 5 * y!.shape[0]! * y!.shape[1]!,
    bytes: 2 * totalBytes(x) + totalBytes(y),
  }),
  arguments: ([y], [x, gate], p) => [
    ...[y!, x!, gate!].map((t) => t.address),
    ...[x!.shape[0]!, p.heads, x!.shape[1]! / p.heads, gate!.shape[1]!, p.offset, p.headStride],
  ],
};
