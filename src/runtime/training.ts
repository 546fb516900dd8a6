/** Typed functions over the ops of training, for models that learn. Shapes as in the op files. */
import { type ActivationParams, activation as activationOp } from "../ir/ops/activation.ts";
import { blockRound as blockRoundOp, type RoundingFormat } from "../ir/ops/block_round.ts";
import { cast as castOp, fill as fillOp } from "../ir/ops/cast.ts";
import {
  type CausalAttentionParams,
  causalAttention as causalAttentionOp,
} from "../ir/ops/causal_attention.ts";
import { type CrossEntropyParams, crossEntropy as crossEntropyOp } from "../ir/ops/cross_entropy.ts";
import { expertCombine as expertCombineOp, expertRows as expertRowsOp } from "../ir/ops/expert_rows.ts";
import { type GemmParams, gemm as gemmOp } from "../ir/ops/gemm.ts";
import { groupedGemm as groupedGemmOp } from "../ir/ops/grouped_gemm.ts";
import { headLoss as headLossOp } from "../ir/ops/head_loss.ts";
import { headScale as headScaleOp } from "../ir/ops/head_scale.ts";
import { lookup as lookupOp } from "../ir/ops/lookup.ts";
import { mix as mixOp, multiply as multiplyOp } from "../ir/ops/mix.ts";
import { norm as normOp } from "../ir/ops/norm.ts";
import { fusedHeads, qkNormRope as qkNormRopeOp } from "../ir/ops/qk_norm_rope.ts";
import { type RotateParams, rotate as rotateOp } from "../ir/ops/rotate.ts";
import {
  balanceLoss as balanceLossOp,
  expertOrder as expertOrderOp,
  type RouteParams,
  route as routeOp,
} from "../ir/ops/route.ts";
import { sum as sumOp } from "../ir/ops/sum.ts";
import { apply } from "./apply.ts";
import { reshape, type Tensor } from "./tensor.ts";

const realType = (t: Tensor): "f32" | "f64" => (t.dtype === "f64" ? "f64" : "f32");

/** Of a product's result: f32, or f64 where x is; bf16 where w is and the device computes with that. */
const productType = (x: Tensor, w: Tensor): "f32" | "f64" | "bf16" =>
  w.dtype === "bf16" && x.device.backend.halfTensors ? "bf16" : realType(x);

/** [T, N] = x w^T + bias from x [T, K] and w [N, K]; x is rounded to bf16 where w is bf16 */
export const dense = (x: Tensor, w: Tensor, bias?: Tensor, dtype = productType(x, w)): Tensor =>
  gemm(like(x, w), w, { transA: false, transB: true, dtype }, bias);

/** [T, N] = x w + bias from w [K, N], as GPT-2 stores its weights; x is rounded to bf16 where w is bf16 */
export const denseTransposed = (x: Tensor, w: Tensor, bias?: Tensor): Tensor =>
  gemm(like(x, w), w, { transA: false, transB: false, dtype: productType(x, w) }, bias);

const like = (x: Tensor, w: Tensor): Tensor => (w.dtype === "bf16" ? cast(x, "bf16") : x);

export const gemm = (a: Tensor, b: Tensor, params: GemmParams, bias?: Tensor): Tensor =>
  apply(gemmOp, [a, b, bias, undefined], params)[0]!;

/** [T, D] */
export const lookup = (table: Tensor, ids: Tensor): Tensor => apply(lookupOp, [table, ids], {})[0]!;

/** `dtype`: of the result, absent: x's */
export const layerNorm = (
  x: Tensor,
  w: Tensor | undefined,
  b: Tensor | undefined,
  eps: number,
  dtype?: "f32" | "bf16",
): Tensor => apply(normOp, [x, w, b], { center: true, eps, dtype: resultType(x, dtype) })[0]!;

export const rootMeanSquareNorm = (
  x: Tensor,
  w: Tensor | undefined,
  eps: number,
  dtype?: "f32" | "bf16",
): Tensor => apply(normOp, [x, w, undefined], { center: false, eps, dtype: resultType(x, dtype) })[0]!;

const resultType = (x: Tensor, dtype: "f32" | "bf16" | undefined) => (x.dtype === "f64" ? undefined : dtype);

export const rotate = (
  x: Tensor,
  positions: Tensor,
  invFreq: Tensor,
  params: Omit<RotateParams, "inverse"> & { readonly inverse?: boolean },
): Tensor => apply(rotateOp, [x, positions, invFreq], { inverse: false, ...params })[0]!;

/** [T, H*E]: heads times gain [H] */
export const headScale = (x: Tensor, gain: Tensor): Tensor => apply(headScaleOp, [x, gain], {})[0]!;

export type QkNormRope = {
  readonly headDim: number;
  readonly eps: number;
  readonly inverse: boolean;
};

/** [T, H*E]: heads over their root mean squares, rotated as a whole (neox), times gain [H] or not; in one pass where the device has it. */
export function qkNormRope(
  x: Tensor,
  positions: Tensor,
  invFreq: Tensor,
  gain: Tensor | undefined,
  { headDim, eps, inverse }: QkNormRope,
): Tensor {
  const [rows, width] = x.shape as [number, number];
  if (x.device.backend.supports("qk_norm_rope") && fusedHeads(headDim, width / headDim))
    return apply(qkNormRopeOp, [x, positions, invFreq, gain], { headDim, inverse, eps })[0]!;
  const heads = reshape(x, [(rows * width) / headDim, headDim]);
  const normed = reshape(rootMeanSquareNorm(heads, undefined, eps), x.shape);
  const turned = rotate(normed, positions, invFreq, { headDim, neox: true, mscale: 1, inverse });
  return gain ? headScale(turned, gain) : turned;
}

/** [rows, H*E]; `first` i32 [rows]: the first position a row sees */
export const causalAttention = (
  q: Tensor,
  k: Tensor,
  v: Tensor,
  params: CausalAttentionParams,
  sinks?: Tensor,
  first?: Tensor,
): Tensor => apply(causalAttentionOp, [q, k, v, sinks, first], params)[0]!;

export const activation = (x: Tensor, up: Tensor | undefined, params: ActivationParams): Tensor =>
  apply(activationOp, [x, up], params)[0]!;

/** [T]: the loss of each row under the head w [V, D] */
export const crossEntropy = (
  x: Tensor,
  w: Tensor,
  bias: Tensor | undefined,
  targets: Tensor,
  params: CrossEntropyParams = { softcap: 0 },
): Tensor => apply(crossEntropyOp, [x, w, bias, targets], params)[0]!;

/** [1]: scale times the sum of the losses of rows, all in bf16; where the device has it */
export const headLoss = (
  x: Tensor,
  w: Tensor,
  targets: Tensor,
  params: { readonly scale: number; readonly softcap: number },
): Tensor => apply(headLossOp, [x, w, targets], params)[0]!;

/** ids i32 and weights, [T, k] each */
export const route = (
  logits: Tensor,
  params: RouteParams,
): { readonly ids: Tensor; readonly weights: Tensor } => {
  const [ids, weights] = apply(routeOp, [logits], params);
  return { ids: ids!, weights: weights! };
};

export type ExpertOrder = { readonly slots: Tensor; readonly places: Tensor; readonly starts: Tensor };

export const expertOrder = (ids: Tensor, experts: number): ExpertOrder => {
  const [slots, places, starts] = apply(expertOrderOp, [ids], { experts });
  return { slots: slots!, places: places!, starts: starts! };
};

/** [T*k, D] */
export const expertRows = (x: Tensor, order: ExpertOrder, used: number): Tensor =>
  apply(expertRowsOp, [x, order.slots, order.places], { used })[0]!;

/** [T*k, N] from w [E, N, K] and bias [E, N] */
export const expertDense = (x: Tensor, w: Tensor, bias: Tensor | undefined, order: ExpertOrder): Tensor =>
  apply(groupedGemmOp, [x, w, bias, order.starts, undefined], { mode: "forward" })[0]!;

/** [T, D] */
export const expertCombine = (x: Tensor, weights: Tensor, order: ExpertOrder, used: number): Tensor =>
  apply(expertCombineOp, [x, weights, order.places], { used })[0]!;

/** [1] */
export const balanceLoss = (logits: Tensor, ids: Tensor): Tensor =>
  apply(balanceLossOp, [logits, ids], {})[0]!;

/** alpha a + beta b; columns scaled by wa and wb where given */
export const mix = (
  a: Tensor,
  b: Tensor | undefined,
  alpha = 1,
  beta = 1,
  wa?: Tensor,
  wb?: Tensor,
  into?: Tensor,
): Tensor => apply(mixOp, [a, b, wa, wb], { alpha, beta }, into ? [into] : [])[0]!;

export const multiply = (a: Tensor, b: Tensor): Tensor => apply(multiplyOp, [a, b], {})[0]!;

export const cast = (x: Tensor, dtype: "f32" | "f64" | "bf16", into?: Tensor): Tensor =>
  x.dtype === dtype && !into ? x : apply(castOp, [x], { dtype }, into ? [into] : [])[0]!;

/** x f32 as blocks of `format` hold it, in the type of `into` */
export const blockRound = (x: Tensor, format: RoundingFormat, into: Tensor): Tensor =>
  apply(blockRoundOp, [x], { format, dtype: into.dtype === "bf16" ? "bf16" : "f32" }, [into])[0]!;

export const fill = (x: Tensor, value: number): void => {
  apply(fillOp, [x], { value });
};

/** [1] */
export const sum = (x: Tensor, scale = 1): Tensor => apply(sumOp, [x], { scale })[0]!;
