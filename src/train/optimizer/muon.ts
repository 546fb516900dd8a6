import { unitNorm } from "../../ir/ops/adam.ts";
import { apply } from "../../runtime/apply.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import { cast, gemm, mix } from "../../runtime/training.ts";

/** The quintic whose repetition brings singular values near 1 (Jordan et al., Muon, 2024). */
const [a, b, c] = [3.4445, -4.775, 2.0315];
const eps = 1e-7;

/**
 * For each matrix of x [batch, R, C] roughly U V^T of its singular value decomposition. Products take the smaller of R and C
 * as their inner square; with bf16 their operands are rounded to it, sums stay f32.
 */
export function orthogonalised(x: Tensor, steps: number, precision: "f32" | "bf16"): Tensor {
  const [, rows, columns] = x.shape as [number, number, number];
  const tall = rows > columns;
  const product = (left: Tensor, right: Tensor, transA: boolean, transB: boolean): Tensor =>
    gemm(rounded(left), rounded(right), { transA, transB, dtype: "f32" });
  const rounded = (t: Tensor): Tensor => (precision === "bf16" ? cast(t, "bf16") : t);
  let y = apply(unitNorm, [x], { eps })[0]!;
  for (let i = 0; i < steps; i++) {
    const square = product(y, y, tall, !tall);
    const polynomial = mix(square, product(square, square, false, false), b, c);
    const turned = tall ? product(y, polynomial, false, false) : product(polynomial, y, false, false);
    y = mix(y, turned, a, 1);
  }
  return y;
}
