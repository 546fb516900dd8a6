import { unexpected } from "../../core/error.ts";
import type { Op, TensorSpec } from "../op.ts";
import { describe, dtypeCode, expectSpec, f32Spec, totalBytes } from "../spec.ts";
import { gluKinds } from "./glu.ts";
import { roundedBytes } from "./matmul.ts";
import type { MoeGluParams } from "./moe_glu.ts";

/** Rows for which the activation is made where the product ends. */
const mostRows = 8;

/** Whether one kernel makes the product of x with gate and up, [2F, K], and the activation. */
export function glusFused(x: TensorSpec, w: TensorSpec): boolean {
  const fits = w.shape[0]! % 32 === 0 && w.shape[1]! % 64 === 0 && w.dtype !== "f32";
  return fits && x.shape[0]! <= mostRows;
}

/** act(x gate, x up) for x [T, K] and a packed [2F, K], gate rows first. The bits of matmul, then glu. */
export const matmulGlu: Op<MoeGluParams> = {
  name: "matmul_glu",
  summary: "gate-up projection and its gated activation in one",
  backends: ["cuda"],
  inputs: [{ name: "x" }, { name: "w" }, { name: "bias", optional: true }],
  params: ["kind", "alpha", "limit"],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "f32", "f32", "f64"] as const),
  ],
  outputs([x, w, bias], p) {
    if (!w?.packed || w.shape.length !== 2 || w.shape[0]! % 2 !== 0 || w.dtype === "f32") {
      throw unexpected("invalid_argument", "matmul_glu", "a packed weight [2F, K], not f32", describe(w));
    }
    if (p.kind === "clamped" && (p.alpha === undefined || p.limit === undefined)) {
      throw unexpected("invalid_argument", "matmul_glu", "alpha and limit for the clamped kind", "none");
    }
    const [outputs, columns] = w.shape as [number, number];
    const rows = expectSpec("matmul_glu x", x, "f32", [-1, columns]).shape[0]!;
    if (bias) expectSpec("matmul_glu bias", bias, "f32", [outputs]);
    return [f32Spec(rows, outputs / 2)];
  },
  scratchBytes: ([x, w]) => roundedBytes(x!, w!) + 128 + 4 * x!.shape[0]! * w!.shape[0]!,
  cost: ([x, w, bias], _p, [y]) => ({
    flops: 2 * x!.shape[0]! * w!.shape[0]! * w!.shape[1]! + 4 * x!.shape[0]! * w!.shape[0]!,
    bytes: totalBytes(x, w, bias, y),
  }),
  arguments: ([y], [x, w, bias], p, scratch) => [
    ...[y!.address, x!.address, w!.address, bias!.address, scratch.address],
    ...[x!.shape[0]!, w!.shape[0]! / 2, w!.shape[1]!, dtypeCode(w!)],
    ...[gluKinds[p.kind], p.alpha ?? 0, p.limit ?? 0, scratch.bytes],
  ],
};
