import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { expectSpec, f32Spec, totalBytes } from "../spec.ts";

/** Column of the gate's rows at which its heads begin. */
export type RmsNormGatedParams = { readonly eps: number; readonly gateOffset: number };

/** y = x / sqrt(mean(x^2) + eps) * w * silu(gate) over heads as wide as w. */
export const rmsNormGated: Op<RmsNormGatedParams> = {
  name: "rms_norm_gated",
  summary: "root-mean-square norm of heads, times silu of a gate",
  inputs: [{ name: "x" }, { name: "gate" }, { name: "w" }],
  params: ["eps", "gateOffset"],
  signature: ["ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "f32"],
  outputs([x, gate, w], { gateOffset }) {
    const [rows, width] = expectSpec("rms_norm_gated x", x, "f32", [-1, -1]).shape as [number, number];
    const columns = expectSpec("rms_norm_gated gate", gate, "f32", [rows, -1]).shape[1]!;
    const head = expectSpec("rms_norm_gated w", w, "f32", [-1]).shape[0]!;
    if (width % head !== 0 || !(gateOffset >= 0 && gateOffset + width <= columns)) {
      const wanted = `whole heads of ${head}, and a gate inside rows of ${columns}`;
      throw unexpected("invalid_argument", "rms_norm_gated", wanted, `${width} columns at ${gateOffset}`);
    }
    return [f32Spec(rows, width)];
  },
  cost: ([x, , w], _p, [y]) => ({
    flops: 10 * y!.shape[0]! * y!.shape[1]!,
    bytes: 2 * totalBytes(x) + totalBytes(w, y),
  }),
  arguments: ([y], [x, gate, w], p) => {
    const head = w!.shape[0]!;
    return [
      ...[y!, x!, gate!, w!].map((t) => t.address),
      ...[x!.shape[0]!, x!.shape[1]! / head, head, gate!.shape[1]!, p.gateOffset, p.eps],
    ];
  },
};
