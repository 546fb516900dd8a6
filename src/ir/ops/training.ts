import type { Op } from "../op.ts";
import { activation, activationGrad } from "./activation.ts";
import { adam, momentum, muonUpdate, sgd, unitNorm } from "./adam.ts";
import { blockRound } from "./block_round.ts";
import { cast, fill } from "./cast.ts";
import { causalAttention, causalAttentionGrad } from "./causal_attention.ts";
import { columnSum } from "./column_sum.ts";
import { crossEntropy, crossEntropyGrad } from "./cross_entropy.ts";
import { expertCombine, expertCombineGrad, expertRows, expertRowsGrad } from "./expert_rows.ts";
import { gemm } from "./gemm.ts";
import { groupedGemm } from "./grouped_gemm.ts";
import { headLoss, scaleBy } from "./head_loss.ts";
import { headScale, headScaleGrad } from "./head_scale.ts";
import { lookup, lookupGrad } from "./lookup.ts";
import { mix, mixGrad, multiply } from "./mix.ts";
import { norm, normGrad } from "./norm.ts";
import { qkNormRope, qkNormRopeGrad } from "./qk_norm_rope.ts";
import { rotate } from "./rotate.ts";
import { balanceLoss, balanceLossGrad, expertOrder, route, routeGrad } from "./route.ts";
import { clipFactor, spread, sum, sumSquares } from "./sum.ts";

/** The ops that only training calls; their prototypes are in ffi/psionic_train.h. */
export const trainingOps: readonly Pick<
  Op,
  "name" | "summary" | "backends" | "inputs" | "params" | "signature"
>[] = [
  gemm,
  groupedGemm,
  columnSum,
  lookup,
  lookupGrad,
  norm,
  normGrad,
  rotate,
  qkNormRope,
  qkNormRopeGrad,
  causalAttention,
  causalAttentionGrad,
  activation,
  activationGrad,
  crossEntropy,
  crossEntropyGrad,
  headLoss,
  scaleBy,
  route,
  routeGrad,
  expertOrder,
  expertRows,
  expertRowsGrad,
  expertCombine,
  expertCombineGrad,
  balanceLoss,
  balanceLossGrad,
  mix,
  mixGrad,
  multiply,
  headScale,
  headScaleGrad,
  cast,
  blockRound,
  fill,
  sum,
  spread,
  sumSquares,
  clipFactor,
  adam,
  sgd,
  momentum,
  unitNorm,
  muonUpdate,
];
