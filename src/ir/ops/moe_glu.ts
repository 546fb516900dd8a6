import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { describe, dtypeCode, expectSpec, f32Spec, totalBytes } from "../spec.ts";
import { type GluParams, gluKinds } from "./glu.ts";
import { roundedBytes } from "./matmul.ts";

export type MoeGluParams = Pick<GluParams, "kind" | "alpha" | "limit">;

/**
 * Gate and up projections of the chosen experts with their gated activation: slot s = t * used + j gives
 * act(x[t] . gate, x[t] . up) of expert ids[t, j]. w is packed [E, 2F, K], gate rows first, bias [E, 2F]; y is
 * [T * used, F] with F a multiple of 16. The same bits as moe_matmul and glu one after the other.
 */
export const moeGlu: Op<MoeGluParams> = {
  name: "moe_glu",
  summary: "gate-up projection of the chosen experts and its gated activation in one",
  backends: ["cuda", "metal"],
  inputs: [{ name: "x" }, { name: "w" }, { name: "bias", optional: true }, { name: "ids" }],
  params: ["kind", "alpha", "limit"],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "i32", "f32", "f32", "f64"] as const),
  ],
  outputs([x, w, bias, ids], p) {
    if (!w?.packed || w.shape.length !== 3 || w.shape[1]! % 32 !== 0) {
      throw unexpected("invalid_argument", "moe_glu", "a packed weight [E, 2F, K], F in 16s", describe(w));
    }
    if (p.kind === "clamped" && (p.alpha === undefined || p.limit === undefined)) {
      throw unexpected("invalid_argument", "moe_glu", "alpha and limit for the clamped kind", "none");
    }
    const [experts, rows, columns] = w.shape as [number, number, number];
    const [tokens, used] = expectSpec("moe_glu ids", ids, "i32", [-1, -1]).shape as [number, number];
    expectSpec("moe_glu x", x, "f32", [tokens, columns]);
    if (bias) expectSpec("moe_glu bias", bias, "f32", [experts, rows]);
    return [f32Spec(tokens * used, rows / 2)];
  },
  scratchBytes([x, w, , ids]) {
    const slots = ids!.shape[0]! * ids!.shape[1]!;
    return roundedBytes(x!, w!) + 64 + 4 * (slots + 3 * w!.shape[0]! + 16);
  },
  cost([x, w, bias, ids], _p, [y]) {
    const [experts, rows, columns] = w!.shape as [number, number, number];
    const slots = ids!.shape[0]! * ids!.shape[1]!;
    const read = Math.min(1, slots / experts); // at most this share of the experts is read
    return {
      flops: 2 * slots * rows * columns + 4 * slots * rows,
      bytes: totalBytes(x, ids, y) + read * totalBytes(w, bias),
    };
  },
  arguments([y], [x, w, bias, ids], p, scratch) {
    const [experts, rows, columns] = w!.shape as [number, number, number];
    const [tokens, used] = ids!.shape as [number, number];
    return [
      ...[y!.address, x!.address, w!.address, bias!.address, ids!.address, scratch.address],
      ...[tokens, used, experts, rows / 2, columns, dtypeCode(w!)],
      ...[gluKinds[p.kind], p.alpha ?? 0, p.limit ?? 0, scratch.bytes],
    ];
  },
};
