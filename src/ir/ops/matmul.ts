import { unexpected } from "../../core/error.ts";
import type { Op, TensorSpec } from "../op.ts";
import { describe, dtypeCode, expectSpec, f32Spec, totalBytes } from "../spec.ts";

/** Bytes for x [T, K] in the form that products with `w` take: rounded to 8 or 16 bits, or two parts of 8 or 16 (ffi/psionic.h). */
export function roundedBytes(x: TensorSpec, w: TensorSpec): number {
  const [rows, columns] = x.shape as [number, number];
  if (w.dtype === "bf16" || w.dtype === "f16") return rows * Math.ceil(columns / 64) * 256;
  return rows * columns * (w.packed === "a16" ? 4 : 2);
}

/** y[t, n] = sum over k of x[t, k] * w[n, k], plus bias[n]. w is packed [N, K]. */
export const matmul: Op<Record<string, never>> = {
  name: "matmul",
  summary: "linear layer over a packed (quantised) weight",
  inputs: [{ name: "x" }, { name: "w" }, { name: "bias", optional: true }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "f64"],
  outputs([x, w, bias]) {
    if (!w?.packed || w.shape.length !== 2) {
      throw unexpected("invalid_argument", "matmul", "a packed weight [N, K]", describe(w));
    }
    const [outputs, columns] = w.shape as [number, number];
    const rows = expectSpec("matmul x", x, "f32", [-1, columns]).shape[0]!;
    if (bias) expectSpec("matmul bias", bias, "f32", [outputs]);
    return [f32Spec(rows, outputs)];
  },
  scratchBytes: ([x, w]) => (w!.dtype === "f32" || w!.dtype === "f64" ? 0 : roundedBytes(x!, w!) + 64),
  cost: ([x, w, bias], _p, [y]) => ({
    flops: 2 * x!.shape[0]! * w!.shape[0]! * w!.shape[1]!,
    bytes: totalBytes(x, w, bias, y),
  }),
  arguments: ([y], [x, w, bias], _p, scratch) => [
    ...[y!.address, x!.address, w!.address, bias!.address, scratch.address],
    ...[x!.shape[0]!, w!.shape[0]!, w!.shape[1]!, dtypeCode(w!), scratch.bytes],
  ],
};
