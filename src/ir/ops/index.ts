import type { Op } from "../op.ts";
import { add } from "./add.ts";
import { addBranchesNorm } from "./add_branches_norm.ts";
import { addGated } from "./add_gated.ts";
import { addNormRouter } from "./add_norm_router.ts";
import { addRmsNorm } from "./add_rms_norm.ts";
import { addScaled } from "./add_scaled.ts";
import { argmax } from "./argmax.ts";
import { attention } from "./attention.ts";
import { causalConv1d } from "./causal_conv1d.ts";
import { embedding } from "./embedding.ts";
import { gatedDeltaChunks } from "./gated_delta_chunks.ts";
import { gatedDeltaRule } from "./gated_delta_rule.ts";
import { gatedDeltaStep } from "./gated_delta_step.ts";
import { gatherRows } from "./gather_rows.ts";
import { glu } from "./glu.ts";
import { kvWrite } from "./kv_write.ts";
import { logSumExp } from "./log_sum_exp.ts";
import { matmul } from "./matmul.ts";
import { matmulGlu } from "./matmul_glu.ts";
import { moeCombine } from "./moe_combine.ts";
import { moeCombineAdd } from "./moe_combine_add.ts";
import { moeCombineNorm } from "./moe_combine_norm.ts";
import { moeCombineSharedNorm } from "./moe_combine_shared_norm.ts";
import { moeGlu } from "./moe_glu.ts";
import { moeMatmul } from "./moe_matmul.ts";
import { normAddNorm } from "./norm_add_norm.ts";
import { normAddNormsRouter } from "./norm_add_norms_router.ts";
import { normRopeKvWrite } from "./norm_rope_kv_write.ts";
import { rmsNorm } from "./rms_norm.ts";
import { rmsNormGated } from "./rms_norm_gated.ts";
import { rope } from "./rope.ts";
import { ropeKvWrite } from "./rope_kv_write.ts";
import { router } from "./router.ts";
import { sample } from "./sample.ts";
import { sigmoidGate } from "./sigmoid_gate.ts";
import { softcap } from "./softcap.ts";
import { topK } from "./top_k.ts";
import { trainingOps } from "./training.ts";

/** The op table: the symbol table of a kernel library and the support matrix of the documentation come from it. */
export const ops: readonly Pick<Op, "name" | "summary" | "backends" | "inputs" | "params" | "signature">[] = [
  embedding,
  rmsNorm,
  addRmsNorm,
  normAddNorm,
  matmul,
  matmulGlu,
  rope,
  kvWrite,
  ropeKvWrite,
  normRopeKvWrite,
  attention,
  glu,
  router,
  addNormRouter,
  normAddNormsRouter,
  moeMatmul,
  moeGlu,
  moeCombine,
  moeCombineAdd,
  moeCombineNorm,
  addBranchesNorm,
  moeCombineSharedNorm,
  add,
  addScaled,
  addGated,
  causalConv1d,
  gatedDeltaRule,
  gatedDeltaChunks,
  gatedDeltaStep,
  rmsNormGated,
  sigmoidGate,
  gatherRows,
  softcap,
  argmax,
  topK,
  logSumExp,
  sample,
  ...trainingOps,
];
