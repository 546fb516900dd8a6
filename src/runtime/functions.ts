/** The ops as model code writes them: one typed line each. */
import { add as addOp } from "../ir/ops/add.ts";
import { addBranchesNorm as addBranchesNormOp } from "../ir/ops/add_branches_norm.ts";
import { addGated as addGatedOp } from "../ir/ops/add_gated.ts";
import { type AddNormRouterParams, addNormRouter as addNormRouterOp } from "../ir/ops/add_norm_router.ts";
import { addRmsNorm as addRmsNormOp } from "../ir/ops/add_rms_norm.ts";
import { addScaled as addScaledOp } from "../ir/ops/add_scaled.ts";
import { argmax as argmaxOp } from "../ir/ops/argmax.ts";
import { type AttentionParams, attention as attentionOp } from "../ir/ops/attention.ts";
import { causalConv1d as causalConv1dOp } from "../ir/ops/causal_conv1d.ts";
import { embedding as embeddingOp } from "../ir/ops/embedding.ts";
import { gatedDeltaChunks } from "../ir/ops/gated_delta_chunks.ts";
import { type GatedDeltaRuleParams, gatedDeltaRule as gatedDeltaRuleOp } from "../ir/ops/gated_delta_rule.ts";
import { type GatedDeltaStepParams, gatedDeltaStep as gatedDeltaStepOp } from "../ir/ops/gated_delta_step.ts";
import { gatherRows as gatherRowsOp } from "../ir/ops/gather_rows.ts";
import { type GluParams, glu as gluOp } from "../ir/ops/glu.ts";
import { type KvWriteParams, kvWrite as kvWriteOp } from "../ir/ops/kv_write.ts";
import { logSumExp as logSumExpOp } from "../ir/ops/log_sum_exp.ts";
import { matmul as matmulOp } from "../ir/ops/matmul.ts";
import { matmulGlu as matmulGluOp } from "../ir/ops/matmul_glu.ts";
import { moeCombine as moeCombineOp } from "../ir/ops/moe_combine.ts";
import { moeCombineAdd as moeCombineAddOp } from "../ir/ops/moe_combine_add.ts";
import { moeCombineNorm as moeCombineNormOp } from "../ir/ops/moe_combine_norm.ts";
import { moeCombineSharedNorm as moeCombineSharedNormOp } from "../ir/ops/moe_combine_shared_norm.ts";
import { type MoeGluParams, moeGlu as moeGluOp } from "../ir/ops/moe_glu.ts";
import { moeMatmul as moeMatmulOp } from "../ir/ops/moe_matmul.ts";
import { type NormAddNormParams, normAddNorm as normAddNormOp } from "../ir/ops/norm_add_norm.ts";
import { normAddNormsRouter as normAddNormsRouterOp } from "../ir/ops/norm_add_norms_router.ts";
import {
  type NormRopeKvWriteParams,
  normRopeKvWrite as normRopeKvWriteOp,
} from "../ir/ops/norm_rope_kv_write.ts";
import { headNorm as headNormOp, rmsNorm as rmsNormOp } from "../ir/ops/rms_norm.ts";
import { type RmsNormGatedParams, rmsNormGated as rmsNormGatedOp } from "../ir/ops/rms_norm_gated.ts";
import { type RopeParams, rope as ropeOp } from "../ir/ops/rope.ts";
import { type RopeKvWriteParams, ropeKvWrite as ropeKvWriteOp } from "../ir/ops/rope_kv_write.ts";
import { type RouterParams, router as routerOp } from "../ir/ops/router.ts";
import { sample as sampleOp } from "../ir/ops/sample.ts";
import { type SigmoidGateParams, sigmoidGate as sigmoidGateOp } from "../ir/ops/sigmoid_gate.ts";
import { softcap as softcapOp } from "../ir/ops/softcap.ts";
import { topK as topKOp } from "../ir/ops/top_k.ts";
import { apply } from "./apply.ts";
import type { Tensor } from "./tensor.ts";

/** f32 [T, D]: scale * table[ids] */
export const embedding = (table: Tensor, ids: Tensor, scale = 1): Tensor =>
  apply(embeddingOp, [table, ids], { scale })[0]!;

/** f32 [T, N] from x [T, K] and a packed weight [N, K] */
export const matmul = (x: Tensor, w: Tensor, bias?: Tensor): Tensor => apply(matmulOp, [x, w, bias], {})[0]!;

/** f32 [T, F]: act(gate x, up x) for a packed weight [2F, K], the gate's rows first */
export const matmulGlu = (x: Tensor, w: Tensor, bias: Tensor | undefined, params: MoeGluParams): Tensor =>
  apply(matmulGluOp, [x, w, bias], params)[0]!;

/** f32 [T, D] */
export const rmsNorm = (x: Tensor, w: Tensor | undefined, eps: number, into?: Tensor): Tensor =>
  apply(rmsNormOp, [x, w], { eps, offset: 0, groups: 1, width: x.shape[1]! }, into ? [into] : [])[0]!;

/** Norms `groups` groups of `width` columns from `offset` on; the result has x's shape, with those columns alone set. */
export const rmsNormGroups = (
  x: Tensor,
  w: Tensor | undefined,
  eps: number,
  offset: number,
  groups: number,
  width: number,
): Tensor => apply(rmsNormOp, [x, w], { eps, offset, groups, width })[0]!;

/** Norms `heads` heads of `headDim` elements from column `offset` of each row, in place. */
export const headNorm = (
  x: Tensor,
  w: Tensor,
  eps: number,
  offset: number,
  heads: number,
  headDim: number,
): Tensor => apply(headNormOp, [x, w], { eps, offset, groups: heads, width: headDim })[0]!;

/** x += delta in place; returns the norm of the sum. */
export const addRmsNorm = (x: Tensor, delta: Tensor, w: Tensor, eps: number, into?: Tensor): Tensor =>
  apply(addRmsNormOp, [x, delta, w], { eps }, into ? [x, into] : [])[1]!;

/** x += delta in place; the norm y of the sum and the experts chosen for it; where the backend supports `add_norm_router` */
export const addNormRouter = (
  x: Tensor,
  delta: Tensor,
  w: Tensor,
  routerWeight: Tensor,
  routerBias: Tensor | undefined,
  params: AddNormRouterParams,
): { readonly y: Tensor; readonly ids: Tensor; readonly weights: Tensor } => {
  const [, y, ids, weights] = apply(addNormRouterOp, [x, delta, w, routerWeight, routerBias], params);
  return { y: y!, ids: ids!, weights: weights! };
};

/**
 * x = (x + the norm of delta by w) * scale in place; returns the norm of that by `next`, where there is one; only where the backend
 * supports `norm_add_norm`
 */
export const normAddNorm = (
  x: Tensor,
  delta: Tensor,
  w: Tensor,
  next: Tensor | undefined,
  params: NormAddNormParams,
  into?: Tensor,
): Tensor | undefined => apply(normAddNormOp, [x, delta, w, next], params, into ? [x, into] : [])[1];

/** The same for a dense MLP and the weighted results of experts, each normed; only where the backend supports `add_branches_norm` */
export const addBranchesNorm = (
  x: Tensor,
  branches: { readonly dense: Tensor; readonly experts: Tensor; readonly weights: Tensor },
  norms: { readonly dense: Tensor; readonly experts: Tensor; readonly both: Tensor; readonly next: Tensor },
  params: NormAddNormParams,
  into: Tensor,
): void => {
  const { dense, experts, weights } = branches;
  const inputs = [x, dense, experts, weights, norms.dense, norms.experts, norms.both, norms.next];
  apply(addBranchesNormOp, inputs, params, [x, into]);
};

/**
 * x += the norm of delta in place; norms y and z of the sum, and the experts chosen by a third one; only where the backend supports
 * `norm_add_norms_router`
 */
export const normAddNormsRouter = (
  x: Tensor,
  delta: Tensor,
  norms: { readonly delta: Tensor; readonly y: Tensor; readonly z: Tensor; readonly router: Tensor },
  routerWeight: Tensor,
  expertScale: Tensor | undefined,
  params: AddNormRouterParams,
): { readonly y: Tensor; readonly z: Tensor; readonly ids: Tensor; readonly weights: Tensor } => {
  const inputs = [x, delta, norms.delta, norms.y, norms.z, norms.router, routerWeight, expertScale];
  const [, y, z, ids, weights] = apply(normAddNormsRouterOp, inputs, params);
  return { y: y!, z: z!, ids: ids!, weights: weights! };
};

export const rope = (x: Tensor, positions: Tensor, invFreq: Tensor, params: RopeParams): Tensor =>
  apply(ropeOp, [x, positions, invFreq], params)[0]!;

export const kvWrite = (
  cache: { readonly keys: Tensor; readonly values: Tensor },
  k: Tensor,
  v: Tensor,
  at: { readonly pageTable: Tensor; readonly sequences: Tensor; readonly positions: Tensor },
  params: KvWriteParams,
): void => {
  apply(kvWriteOp, [cache.keys, cache.values, k, v, at.pageTable, at.sequences, at.positions], params);
};

/** Both of the above for q in place and for k and v into the cache; only where the backend supports `rope_kv_write` */
export const ropeKvWrite = (
  q: Tensor,
  cache: { readonly keys: Tensor; readonly values: Tensor },
  k: Tensor,
  v: Tensor,
  at: { readonly pageTable: Tensor; readonly sequences: Tensor; readonly positions: Tensor },
  invFreq: Tensor,
  params: RopeKvWriteParams,
): void => {
  apply(
    ropeKvWriteOp,
    [q, cache.keys, cache.values, k, v, at.pageTable, at.sequences, at.positions, invFreq],
    params,
  );
};

/**
 * The same after norms of the heads of q and k (and v); without own keys and values queries alone; only where the backend supports
 * `norm_rope_kv_write`
 */
export const normRopeKvWrite = (
  q: Tensor,
  qNorm: Tensor,
  own:
    | {
        readonly cache: { readonly keys: Tensor; readonly values: Tensor };
        readonly k: Tensor;
        readonly v: Tensor;
        readonly kNorm: Tensor;
      }
    | undefined,
  at: { readonly pageTable: Tensor; readonly sequences: Tensor; readonly positions: Tensor },
  invFreq: Tensor,
  params: NormRopeKvWriteParams,
): void => {
  const cached = [own?.cache.keys, own?.cache.values, own?.k, own?.v] as const;
  const places = [at.pageTable, at.sequences, at.positions, invFreq] as const;
  apply(normRopeKvWriteOp, [q, ...cached, qNorm, own?.kNorm, ...places], params);
};

/** f32 [T, H * E] */
export const attention = (
  q: Tensor,
  cache: { readonly keys: Tensor; readonly values: Tensor },
  at: { readonly pageTable: Tensor; readonly sequences: Tensor; readonly positions: Tensor },
  sinks: Tensor | undefined,
  params: AttentionParams,
): Tensor =>
  apply(
    attentionOp,
    [q, cache.keys, cache.values, at.pageTable, at.sequences, at.positions, sinks],
    params,
  )[0]!;

/** f32 [T, F] from [T, 2F], or from gate and up of [T, F] each */
export const glu = (gate: Tensor, up: Tensor | undefined, params: GluParams): Tensor =>
  apply(gluOp, [gate, up], params)[0]!;

export const router = (
  logits: Tensor,
  bias: Tensor | undefined,
  params: RouterParams,
  expertScale?: Tensor,
): { readonly ids: Tensor; readonly weights: Tensor } => {
  const [ids, weights] = apply(routerOp, [logits, bias, expertScale], params);
  return { ids: ids!, weights: weights! };
};

/** f32 [T * used, N] */
export const moeMatmul = (x: Tensor, w: Tensor, bias: Tensor | undefined, ids: Tensor): Tensor =>
  apply(moeMatmulOp, [x, w, bias, ids], {})[0]!;

/** f32 [T, D] */
export const moeCombine = (x: Tensor, weights: Tensor): Tensor => apply(moeCombineOp, [x, weights], {})[0]!;

/** f32 [T * used, F] = glu(moeMatmul(x, w, bias, ids)) for w [E, 2F, K]; only where the backend supports `moe_glu` */
export const moeGlu = (
  x: Tensor,
  w: Tensor,
  bias: Tensor | undefined,
  ids: Tensor,
  params: MoeGluParams,
): Tensor => apply(moeGluOp, [x, w, bias, ids], params)[0]!;

/** f32 [T, D] = base + moeCombine(x, weights); only where the backend supports `moe_combine_add` */
export const moeCombineAdd = (base: Tensor, x: Tensor, weights: Tensor, into?: Tensor): Tensor =>
  apply(moeCombineAddOp, [base, x, weights], {}, into ? [into] : [])[0]!;

/**
 * base += moeCombine(x, weights); f32 [T, D] RMS norm of it times w [D]; only where the backend supports
 * `moe_combine_norm`
 */
export const moeCombineNorm = (
  base: Tensor,
  x: Tensor,
  weights: Tensor,
  w: Tensor,
  eps: number,
  into: Tensor,
): Tensor => apply(moeCombineNormOp, [base, x, weights, w], { eps }, [base, into])[1]!;

/** The same with a shared expert: base += sigmoid(b . gate) * shared too. */
export const moeCombineSharedNorm = (
  base: Tensor,
  x: Tensor,
  weights: Tensor,
  shared: { readonly results: Tensor; readonly b: Tensor; readonly gate: Tensor },
  w: Tensor,
  eps: number,
  into: Tensor,
): Tensor => {
  const inputs = [base, x, weights, shared.results, shared.b, shared.gate, w];
  return apply(moeCombineSharedNormOp, inputs, { eps }, [base, into])[1]!;
};

export const add = (a: Tensor, b: Tensor, into?: Tensor): Tensor =>
  apply(addOp, [a, b], {}, into ? [into] : [])[0]!;

/** (a + b) * scale */
export const addScaled = (a: Tensor, b: Tensor, scale: number, into?: Tensor): Tensor =>
  apply(addScaledOp, [a, b], { scale }, into ? [into] : [])[0]!;

/** Which sequence and position each token has, i32 [T], and where each sequence's recurrent state lies, i32 [S] */
export type RecurrentPlaces = {
  readonly sequences: Tensor;
  readonly positions: Tensor;
  readonly slots: Tensor;
};

/** f32 [T, C]: silu of the causal convolution of columns `offset`... of x with w [C, K]; state [slots, K - 1, C] moves on */
export const causalConv1d = (x: Tensor, w: Tensor, state: Tensor, at: RecurrentPlaces, offset = 0): Tensor =>
  apply(causalConv1dOp, [x, w, state, at.sequences, at.positions, at.slots], { offset })[0]!;

/** f32 [T, Hv * Ev] from q, k, v inside the rows of `qkv`; state [slots, Hv, Ek, Ev] moves on */
export const gatedDeltaRule = (
  qkv: Tensor,
  gates: { readonly a: Tensor; readonly b: Tensor },
  weights: { readonly decay: Tensor; readonly dtBias: Tensor },
  state: Tensor,
  at: RecurrentPlaces,
  params: GatedDeltaRuleParams,
  into?: Tensor,
): Tensor =>
  apply(
    state.shape[2] === params.keyDim ? gatedDeltaRuleOp : gatedDeltaChunks,
    [qkv, gates.a, gates.b, weights.decay, weights.dtBias, state, at.sequences, at.positions, at.slots],
    params,
    into ? [into] : [],
  )[0]!;

/** What a gated delta rule layer's input projections give: tensors with a column offset each. */
export type DeltaProjections = Readonly<Record<"qkv" | "z" | "a" | "b", Tensor>>;

/** f32 [T, Hv * Ev]: convolution, delta rule and gated norm of a generation step; both states move on. */
export const gatedDeltaStep = (
  x: DeltaProjections,
  w: Readonly<Record<"convolution" | "decay" | "dtBias" | "norm", Tensor>>,
  states: { readonly convolution: Tensor; readonly memory: Tensor },
  at: RecurrentPlaces,
  params: GatedDeltaStepParams,
): Tensor => {
  const weights = [w.convolution, w.decay, w.dtBias, w.norm];
  const places = [at.sequences, at.positions, at.slots];
  const inputs = [x.qkv, x.z, x.a, x.b, ...weights, states.convolution, states.memory, ...places];
  return apply(gatedDeltaStepOp, inputs, params)[0]!;
};

/** f32 [T, H * E]: RMS norm of each head of x times silu of the gate's columns */
export const rmsNormGated = (x: Tensor, gate: Tensor, w: Tensor, params: RmsNormGatedParams): Tensor =>
  apply(rmsNormGatedOp, [x, gate, w], params)[0]!;

/** f32 [T, H * E]: x times sigmoid of the gate's columns */
export const sigmoidGate = (x: Tensor, gate: Tensor, params: SigmoidGateParams, into?: Tensor): Tensor =>
  apply(sigmoidGateOp, [x, gate], params, into ? [into] : [])[0]!;

/** f32 [T, D]: base + sigmoid(gate) * x for gate [T, 1] */
export const addGated = (base: Tensor, x: Tensor, gate: Tensor, into?: Tensor): Tensor =>
  apply(addGatedOp, [base, x, gate], {}, into ? [into] : [])[0]!;

export const gatherRows = (x: Tensor, index: Tensor): Tensor => apply(gatherRowsOp, [x, index], {})[0]!;

export const softcap = (x: Tensor, cap: number): Tensor => apply(softcapOp, [x], { cap })[0]!;

/** i32 [R] */
export const argmax = (x: Tensor): Tensor => apply(argmaxOp, [x], {})[0]!;

/** values f32 [R, k] and ids i32 [R, k] */
export const topK = (x: Tensor, k: number): { readonly values: Tensor; readonly ids: Tensor } => {
  const [values, ids] = apply(topKOp, [x], { k });
  return { values: values!, ids: ids! };
};

/** f32 [R] */
export const logSumExp = (x: Tensor): Tensor => apply(logSumExpOp, [x], {})[0]!;

/** i32 [N] and f32 [N]: a token and its log-probability for each record; only where the backend supports `sample` */
export const sample = (
  logits: Tensor,
  records: Tensor,
  entries: Tensor | undefined,
  masks: Tensor | undefined,
  allGreedy: boolean,
): { readonly ids: Tensor; readonly logprobs: Tensor } => {
  const [ids, logprobs] = apply(sampleOp, [logits, records, entries, masks], { allGreedy });
  return { ids: ids!, logprobs: logprobs! };
};
