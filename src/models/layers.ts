/** Parts that several families share, written over tensors; a family's own file says how they are put together. */

import { routesFused } from "../ir/ops/add_norm_router.ts";
import { glusFused } from "../ir/ops/matmul_glu.ts";
import type { MoeGluParams } from "../ir/ops/moe_glu.ts";
import { normsFused } from "../ir/ops/norm_add_norm.ts";
import type { RouterParams } from "../ir/ops/router.ts";
import {
  add,
  addNormRouter,
  addRmsNorm,
  addScaled,
  attention,
  glu,
  headNorm,
  kvWrite,
  matmul,
  matmulGlu,
  moeCombine,
  moeCombineAdd,
  moeCombineNorm,
  moeGlu,
  moeMatmul,
  normAddNorm,
  normRopeKvWrite,
  rmsNorm,
  rope,
  ropeKvWrite,
  router,
  sigmoidGate,
} from "../runtime/functions.ts";
import type { Tensor } from "../runtime/tensor.ts";
import type { CacheGroup, Step } from "./model.ts";

/** A linear layer: packed weight [N, K] and optional bias f32 [N]. */
export type Linear = {
  readonly weight: Tensor;
  readonly bias?: Tensor;
  /** What an adapter adds: up (down x), packed f32 [R, K] and [N, R]. Only of layers that `linear` computes. */
  readonly adapter?: { readonly down: Tensor; readonly up: Tensor };
};

export function linear(x: Tensor, { weight, bias, adapter }: Linear): Tensor {
  const y = matmul(x, weight, bias);
  return adapter ? add(y, matmul(matmul(x, adapter.down), adapter.up), y) : y;
}

/** Queries, keys and values: where each stands (tensor and first column). */
type Placed = { readonly tensor: Tensor; readonly offset: number };

export type AttentionWeights = {
  readonly qkv: readonly Linear[];
  /** Which of `qkv` holds q, k, v, and from which column. */
  readonly at: readonly { readonly part: number; readonly offset: number }[];
  /** Where a gate stands whose sigmoid the heads' results are multiplied by. */
  readonly gate?: { readonly part: number; readonly offset: number };
  readonly output: Linear;
  readonly qNorm?: Tensor;
  readonly kNorm?: Tensor;
  readonly sinks?: Tensor;
};

export type AttentionShape = {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly window: number;
  readonly scale: number;
  readonly softcap: number;
  readonly eps: number;
  readonly neox: boolean;
  readonly rotary: { readonly invFreq: Tensor; readonly mscale: number };
};

/** Where a layer's keys and values go: group of the page table, and position inside the group's pool. */
export type CachePlace = { readonly group: number; readonly slot: number };

/**
 * Grouped-head attention of normed input x [T, D]; returns the heads' results [T, H * E] before the output
 * projection. `x -> q, k, v -> per-head norm -> rotary -> cache -> softmax(q k) v`.
 */
export function attend(
  x: Tensor,
  w: AttentionWeights,
  shape: AttentionShape,
  step: Step,
  place: CachePlace,
): Tensor {
  const { heads, kvHeads, headDim } = shape;
  const outputs = w.qkv.map((part) => linear(x, part));
  const placed = (i: number): Placed => ({ tensor: outputs[w.at[i]!.part]!, offset: w.at[i]!.offset });
  const [q, k, v] = [placed(0), placed(1), placed(2)];
  const { qNorm, kNorm } = w;
  const normsInside = qNorm && kNorm && x.device.backend.supports("norm_rope_kv_write");
  if (qNorm && !normsInside) headNorm(q.tensor, qNorm, shape.eps, q.offset, heads, headDim);
  if (kNorm && !normsInside) headNorm(k.tensor, kNorm, shape.eps, k.offset, kvHeads, headDim);
  const pool = step.pools[place.group]!;
  const cache = { keys: pool.keys[place.slot]!, values: pool.values[place.slot]! };
  const at = {
    pageTable: step.pageTables[place.group]!,
    sequences: step.sequences,
    positions: step.positions,
  };
  const geometry = { kvHeads, headDim, pageSize: pool.pageSize };
  const offsets = { kOffset: k.offset, vOffset: v.offset, ...geometry };
  const { neox, rotary } = shape;
  const params = { ...offsets, qOffset: q.offset, heads, neox, mscale: rotary.mscale };
  if (normsInside) {
    const own = { cache, k: k.tensor, v: v.tensor, kNorm };
    const normed = { ...params, eps: shape.eps, normValues: false };
    normRopeKvWrite(q.tensor, qNorm, own, at, rotary.invFreq, normed);
  } else if (x.device.backend.supports("rope_kv_write")) {
    ropeKvWrite(q.tensor, cache, k.tensor, v.tensor, at, rotary.invFreq, params);
  } else {
    rotate(q, heads, shape, step);
    rotate(k, kvHeads, shape, step);
    kvWrite(cache, k.tensor, v.tensor, at, offsets);
  }
  const { window, scale, softcap } = shape;
  const results = attention(q.tensor, cache, at, w.sinks, {
    qOffset: q.offset,
    heads,
    ...geometry,
    window,
    scale,
    softcap,
  });
  if (!w.gate) return results;
  const { part, offset } = w.gate;
  return sigmoidGate(results, outputs[part]!, { heads, offset, headStride: headDim });
}

function rotate(at: Placed, heads: number, shape: AttentionShape, step: Step): void {
  const { headDim, neox, rotary } = shape;
  const params = { offset: at.offset, heads, headDim, neox, mscale: rotary.mscale };
  rope(at.tensor, step.positions, rotary.invFreq, params);
}

/** Gate and up projections: one weight [2F, D] (gate rows first), or two of [F, D]. */
export type GateUp = readonly [Linear] | readonly [Linear, Linear];

/** down(act(gate x) * (up x)) for x [T, D]. */
export function gatedMlp(x: Tensor, gateUp: GateUp, down: Linear, kind: "silu" | "gelu"): Tensor {
  return linear(gated(x, gateUp, kind), down);
}

/** act(gate x) * (up x) */
export function gated(x: Tensor, [gate, up]: GateUp, kind: "silu" | "gelu"): Tensor {
  const { weight, bias, adapter } = gate;
  const fused = !up && !adapter && x.device.backend.supports("matmul_glu") && glusFused(x, weight);
  if (fused) return matmulGlu(x, weight, bias, { kind });
  return glu(linear(x, gate), up ? linear(x, up) : undefined, { kind });
}

/** A normed stream b [T, D] and the experts chosen for it, [T, k]. */
export type Routed = { readonly b: Tensor; readonly ids: Tensor; readonly weights: Tensor };

/** h += o; the norm b of the sum, and the experts chosen for it by their ids and weights, [T, k]. */
export function normAndRoute(
  h: Tensor,
  o: Tensor,
  norm: Tensor,
  w: Linear,
  routing: RouterParams,
  eps: number,
): Routed {
  if (h.device.backend.supports("add_norm_router") && routesFused(h, w.weight)) {
    const { y, ids, weights } = addNormRouter(h, o, norm, w.weight, w.bias, { ...routing, eps });
    return { b: y, ids, weights };
  }
  const b = addRmsNorm(h, o, norm, eps);
  return { b, ...router(linear(b, w), undefined, routing) };
}

/** Gate-up and down projections of all experts of a layer: [E, 2F, D] or two of [E, F, D], and [E, D, F]. */
export type Experts = { readonly gateUp: GateUp; readonly down: Linear };

/** down(act(gate x) * (up x)) of each chosen expert: x [T, D], ids [T, k] -> [T * k, D]. */
export function chosenExperts(x: Tensor, ids: Tensor, w: Experts, params: MoeGluParams): Tensor {
  return moeMatmul(gatedExperts(x, ids, w, params), w.down.weight, w.down.bias, ids);
}

/** act(gate x) * (up x) of each chosen expert, [T * k, F]. */
export function gatedExperts(x: Tensor, ids: Tensor, { gateUp }: Experts, params: MoeGluParams): Tensor {
  const [gate, up] = gateUp;
  const fused = !up && gate.weight.shape[1]! % 32 === 0 && x.device.backend.supports("moe_glu");
  if (fused) return moeGlu(x, gate.weight, gate.bias, ids, params);
  const other = up ? moeMatmul(x, up.weight, up.bias, ids) : undefined;
  return glu(moeMatmul(x, gate.weight, gate.bias, ids), other, params);
}

/** h [T, D] + the experts' results [T * k, D], weighted by [T, k]. */
export function addCombined(h: Tensor, results: Tensor, weights: Tensor, into: Tensor): Tensor {
  if (h.device.backend.supports("moe_combine_add")) return moeCombineAdd(h, results, weights, into);
  return add(h, moeCombine(results, weights), into);
}

/** h += the experts' weighted results; the norm of the next layer, [T, D], goes to `into`. */
export function addCombinedAndNorm(
  h: Tensor,
  results: Tensor,
  weights: Tensor,
  norm: Tensor,
  eps: number,
  into: Tensor,
): void {
  if (h.device.backend.supports("moe_combine_norm")) {
    moeCombineNorm(h, results, weights, norm, eps, into);
    return;
  }
  addCombined(h, results, weights, h);
  rmsNorm(h, norm, eps, into);
}

/**
 * h = (h + the norm of delta by w) * scale; returns the norm of that by `next`, [T, D], where there is one, at the place `into` if
 * that is given.
 */
export function addNormed(
  h: Tensor,
  delta: Tensor,
  w: Tensor,
  next: Tensor | undefined,
  params: { readonly eps: number; readonly scale: number },
  into?: Tensor,
): Tensor | undefined {
  if (h.device.backend.supports("norm_add_norm") && normsFused(h))
    return normAddNorm(h, delta, w, next, params, into);
  const { eps, scale } = params;
  const o = rmsNorm(delta, w, eps);
  if (next && scale === 1 && !into) return addRmsNorm(h, o, next, eps);
  addScaled(h, o, scale, h);
  return next && rmsNorm(h, next, eps, into);
}

/** Groups the layers of a model by how they keep their cache; `place[i]` tells where layer i's lies. */
export function cacheGroups(
  layers: readonly { readonly window: number; readonly kvHeads: number; readonly headDim: number }[],
): { readonly groups: readonly CacheGroup[]; readonly places: readonly CachePlace[] } {
  const groups: { window: number; layers: number[]; kvHeads: number; headDim: number }[] = [];
  const places = layers.map(({ window, kvHeads, headDim }, layer) => {
    let index = groups.findIndex(
      (g) => g.window === window && g.kvHeads === kvHeads && g.headDim === headDim,
    );
    if (index < 0) index = groups.push({ window, layers: [], kvHeads, headDim }) - 1;
    const group = groups[index]!;
    return { group: index, slot: group.layers.push(layer) - 1 };
  });
  return { groups, places };
}
