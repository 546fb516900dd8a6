/**
 * Gemma 4's text model: e2b and e4b (an embedding per layer and token, layers that share keys and values), 31b
 * (global layers whose values are their raw keys), 26b-a4b (experts beside a dense MLP).
 *
 *   h = embed(tokens) * sqrt(D);  P = (embed_per_layer(tokens) * sqrt(W) + RMS(Wp h / sqrt(D))) / sqrt(2)
 *   h += RMS(Wo attention(rope(norm(Wq a)), rope(norm(Wk a)), bareNorm(Wv a)))                    a = RMS(h)
 *   h += RMS(Wd (gelu(Wg b) * (Wu b)) [+ experts])                                                b = RMS(h)
 *   h += RMS(Wproj (gelu(Wgate h) * P_layer))                                                     where there is a P
 *   h *= layer scale;   logits = cap tanh(W RMS(h) / cap)
 */
import { routesFused } from "../ir/ops/add_norm_router.ts";
import { normsFused } from "../ir/ops/norm_add_norm.ts";
import {
  add,
  addBranchesNorm,
  addScaled,
  attention,
  embedding,
  gatherRows,
  glu,
  headNorm,
  kvWrite,
  moeCombine,
  moeMatmul,
  normAddNormsRouter,
  normRopeKvWrite,
  rmsNorm,
  rmsNormGroups,
  rope,
  router,
  softcap,
} from "../runtime/functions.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { type Gemma4Config, keyValueSource } from "./gemma4_config.ts";
import {
  addNormed,
  type CachePlace,
  cacheGroups,
  type Experts,
  type GateUp,
  gated,
  gatedExperts,
  gatedMlp,
  type Linear,
  linear,
} from "./layers.ts";
import { decoder, type Model, type Step } from "./model.ts";
import { rotary } from "./rotary.ts";
import type { Weights } from "./weights.ts";

type Attention = {
  /** Queries, then, where the layer has its own, keys and values (none: values are the raw keys). */
  readonly qkv: readonly Linear[];
  readonly at: readonly { readonly part: number; readonly offset: number }[];
  readonly output: Linear;
  readonly qNorm: Tensor; // [E]
  readonly kNorm?: Tensor; // [E]; none: keys and values of another layer
};

type Sparse = {
  readonly postNorm1: Tensor; // [D], of the dense branch
  readonly preNorm2: Tensor; // [D]
  readonly postNorm2: Tensor; // [D]
  readonly routerNorm: Tensor; // [D], scale / sqrt(D)
  readonly router: Linear; // [E, D]
  readonly expertScale: Tensor; // [E]
  readonly experts: Experts;
};

type PerLayer = { readonly gate: Linear; readonly projection: Linear; readonly postNorm: Tensor };

type Layer = {
  readonly attentionNorm: Tensor; // [D]
  readonly attention: Attention;
  readonly rotary: Tensor; // f32 [E/2]
  readonly place: CachePlace;
  readonly postAttentionNorm: Tensor; // [D]
  readonly mlpNorm: Tensor; // [D]
  readonly gateUp: GateUp;
  readonly down: Linear;
  readonly sparse?: Sparse;
  readonly postMlpNorm: Tensor; // [D]
  readonly perLayer?: PerLayer;
  readonly scale: number;
};

/** What makes P, f32 [T, L * W]. */
type PerLayerEmbedding = {
  readonly table: Tensor; // [V, L * W]
  readonly projection: Linear; // [L * W, D]
  readonly norm: Tensor; // [W]
};

type Parts = {
  readonly table: Tensor; // [V, D]
  readonly perLayer?: PerLayerEmbedding;
  readonly layers: readonly Layer[];
  readonly outputNorm: Tensor; // [D]
};

export function loadGemma4(c: Gemma4Config, w: Weights): Model {
  const rotaries = rotaryTables(c, w);
  const shapes = Array.from({ length: c.layers - c.sharedLayers }, (_, i) => ({
    window: c.slides[i] ? c.window : 0,
    kvHeads: c.kvHeads[i]!,
    headDim: c.headDims[i]!,
  }));
  const { groups, places } = cacheGroups(shapes);
  const layers = Array.from({ length: c.layers }, (_, i) =>
    loadLayer(c, w, i, c.slides[i] ? rotaries.sliding : rotaries.global, places[keyValueSource(c, i)]!),
  );
  const tied = !w.has("output.weight");
  const head = w.head(tied ? "token_embd" : "output", c.vocabularySize, c.width);
  const parts: Parts = {
    table: tied ? head.weight : w.table("token_embd", c.vocabularySize, c.width),
    ...(c.perLayerWidth > 0 && { perLayer: loadPerLayer(c, w) }),
    layers,
    outputNorm: w.vector("output_norm.weight", c.width),
  };
  return {
    config: c,
    cacheGroups: groups,
    parameters: w.parameters,
    weightBytes: w.residentBytes,
    ...decoder(
      (step) => hidden(c, parts, step),
      (x) => logits(c, head, x),
    ),
    free: () => w.free(),
  };
}

/** A global head turns its first pairs only: the others' divisors are so great that their angle is zero. */
function rotaryTables(c: Gemma4Config, w: Weights): { readonly sliding: Tensor; readonly global: Tensor } {
  const dims = (slides: boolean): number => c.headDims[c.slides.indexOf(slides)] ?? 2;
  const pairs = dims(false) / 2;
  const turning = Math.floor((c.partialRotary ?? 1) * pairs);
  const factors = w.has("rope_freqs.weight")
    ? w.hostVector("rope_freqs.weight", pairs)
    : Float32Array.from({ length: pairs }, (_, i) => (i < turning ? 1 : 1e30));
  const table = (base: number, slides: boolean, divisors?: Float32Array): Tensor =>
    w.constant(rotary(base, dims(slides), { type: "none" }, divisors).invFreq);
  return { sliding: table(c.slidingBase, true), global: table(c.globalBase, false, factors) };
}

function loadPerLayer(c: Gemma4Config, w: Weights): PerLayerEmbedding {
  const all = c.layers * c.perLayerWidth;
  return {
    table: w.table("per_layer_token_embd", c.vocabularySize, all),
    projection: w.linear("per_layer_model_proj", all, c.width),
    norm: w.vector("per_layer_proj_norm.weight", c.perLayerWidth),
  };
}

function loadLayer(c: Gemma4Config, w: Weights, i: number, table: Tensor, place: CachePlace): Layer {
  const name = (part: string): string => `blk.${i}.${part}`;
  const norm = (part: string, width = c.width): Tensor => w.vector(`${name(part)}.weight`, width);
  const f = c.feedForward[i]!;
  return {
    attentionNorm: norm("attn_norm"),
    attention: loadAttention(c, w, i),
    rotary: table,
    place,
    postAttentionNorm: norm("post_attention_norm"),
    mlpNorm: norm("ffn_norm"),
    gateUp: w.gateUp(name("ffn_gate"), name("ffn_up"), f, c.width),
    down: w.linear(name("ffn_down"), c.width, f),
    ...(w.has(`${name("ffn_gate_inp")}.weight`) && { sparse: loadSparse(c, w, i) }),
    postMlpNorm: norm("post_ffw_norm"),
    ...(c.perLayerWidth > 0 && {
      perLayer: {
        gate: w.linear(name("inp_gate"), c.perLayerWidth, c.width),
        projection: w.linear(name("proj"), c.width, c.perLayerWidth),
        postNorm: norm("post_norm"),
      },
    }),
    scale: w.has(`${name("layer_output_scale")}.weight`)
      ? w.hostVector(`${name("layer_output_scale")}.weight`, 1)[0]!
      : 1,
  };
}

function loadAttention(c: Gemma4Config, w: Weights, i: number): Attention {
  const name = (part: string): string => `blk.${i}.${part}`;
  const e = c.headDims[i]!;
  const [q, kv] = [c.heads * e, c.kvHeads[i]! * e];
  const owns = keyValueSource(c, i) === i;
  // Published files keep the unused projections of layers that share.
  if (!owns) for (const part of ["attn_k", "attn_v", "attn_k_norm"]) w.pass(`${name(part)}.weight`);
  const layers = [{ name: name("attn_q"), outputs: q }];
  if (owns) layers.push({ name: name("attn_k"), outputs: kv });
  if (owns && w.has(`${name("attn_v")}.weight`)) layers.push({ name: name("attn_v"), outputs: kv });
  const { parts, at } = w.linears(layers, c.width);
  return {
    qkv: parts,
    at,
    output: w.linear(name("attn_output"), c.width, q),
    qNorm: w.vector(`${name("attn_q_norm")}.weight`, e),
    ...(owns && { kNorm: w.vector(`${name("attn_k_norm")}.weight`, e) }),
  };
}

function loadSparse(c: Gemma4Config, w: Weights, i: number): Sparse {
  const name = (part: string): string => `blk.${i}.${part}`;
  const scale = w.hostVector(`${name("ffn_gate_inp")}.scale`, c.width).map((v) => v / Math.sqrt(c.width));
  const older = `${name("ffn_gate_inp")}.per_expert_scale`;
  return {
    postNorm1: w.vector(`${name("post_ffw_norm_1")}.weight`, c.width),
    preNorm2: w.vector(`${name("pre_ffw_norm_2")}.weight`, c.width),
    postNorm2: w.vector(`${name("post_ffw_norm_2")}.weight`, c.width),
    routerNorm: w.constant(scale),
    router: w.linear(name("ffn_gate_inp"), c.experts, c.width),
    expertScale: w.vector(w.has(older) ? older : `${name("ffn_down_exps")}.scale`, c.experts),
    experts: {
      gateUp: w.expertGateUp(i, c.experts, c.expertFeedForward, c.width),
      down: w.experts([name("ffn_down_exps")], c.experts, c.width, c.expertFeedForward),
    },
  };
}

/** Normed hidden states f32 [R, D] of the wanted rows. */
function hidden(c: Gemma4Config, parts: Parts, step: Step): Tensor {
  const { layers } = parts;
  let h = embedding(parts.table, step.tokens, c.embeddingScale); // [T, D]
  const { device } = h;
  let p = parts.perLayer && perLayerInputs(c, parts.perLayer, step, h); // [T, L * W]
  const a = rmsNorm(h, layers[0]!.attentionNorm, c.eps); // each layer leaves the next one's
  const result = device.temporary({ dtype: "f32", shape: [step.outputRows.shape[0]!, c.width] });
  for (const [i, layer] of layers.entries()) {
    using _layer = device.scope();
    const following = layers[i + 1];
    let heads = attend(c, i, layer, a, step);
    if (!following) {
      // Past the last layer's attention only the wanted rows go on.
      heads = gatherRows(heads, step.outputRows);
      h = gatherRows(h, step.outputRows);
      p = p && gatherRows(p, step.outputRows);
    }
    const o = linear(heads, layer.attention.output);
    const end: End = following
      ? { norm: following.attentionNorm, into: a }
      : { norm: parts.outputNorm, into: result };
    if (layer.sparse) addSparse(c, layer, layer.sparse, h, o, end);
    else addDense(c, layer, h, o, end, p && { rows: p, offset: i * c.perLayerWidth });
  }
  return result;
}

/** The norm that follows a layer, and where it goes, [T, D]. */
type End = { readonly norm: Tensor; readonly into: Tensor };

/** What is after attention, whose projected results are o [T, D]: h becomes the layer's result. */
function addDense(
  c: Gemma4Config,
  layer: Layer,
  h: Tensor,
  o: Tensor,
  end: End,
  p: { readonly rows: Tensor; readonly offset: number } | undefined,
): void {
  const plain = { eps: c.eps, scale: 1 };
  const scaled = { eps: c.eps, scale: layer.scale };
  const b = addNormed(h, o, layer.postAttentionNorm, layer.mlpNorm, plain)!;
  const m = gatedMlp(b, layer.gateUp, layer.down, "gelu");
  const { perLayer, postMlpNorm } = layer;
  if (!perLayer || !p) {
    addNormed(h, m, postMlpNorm, end.norm, scaled, end.into);
    return;
  }
  addNormed(h, m, postMlpNorm, undefined, plain);
  const inner = glu(linear(h, perLayer.gate), p.rows, { kind: "gelu", upOffset: p.offset });
  addNormed(h, linear(inner, perLayer.projection), perLayer.postNorm, end.norm, scaled, end.into);
}

/** The same with experts beside the dense MLP, which read h by norms of their own. */
function addSparse(c: Gemma4Config, layer: Layer, sparse: Sparse, h: Tensor, o: Tensor, end: End): void {
  const { b, x, ids, weights } = routed(c, layer, sparse, h, o);
  const gatedExpert = gatedExperts(x, ids, sparse.experts, { kind: "gelu" });
  // between the products of the experts, beside which CUDA runs it
  const gatedDense = gated(b, layer.gateUp, "gelu");
  const { down } = sparse.experts;
  const experts = moeMatmul(gatedExpert, down.weight, down.bias, ids);
  const dense = linear(gatedDense, layer.down);
  const params = { eps: c.eps, scale: layer.scale };
  if (h.device.backend.supports("add_branches_norm") && normsFused(h, 2)) {
    const [ofDense, ofExperts] = [sparse.postNorm1, sparse.postNorm2];
    const norms = { dense: ofDense, experts: ofExperts, both: layer.postMlpNorm, next: end.norm };
    addBranchesNorm(h, { dense, experts, weights }, norms, params, end.into);
    return;
  }
  const e = rmsNorm(moeCombine(experts, weights), sparse.postNorm2, c.eps);
  const m = add(rmsNorm(dense, sparse.postNorm1, c.eps), e);
  addNormed(h, m, layer.postMlpNorm, end.norm, params, end.into);
}

/** h += RMS(o); what the dense MLP (b) and the experts (x) read of it, and the experts chosen: [T, D], [T, k]. */
function routed(c: Gemma4Config, layer: Layer, sparse: Sparse, h: Tensor, o: Tensor) {
  const routing = { mode: "softmax", used: c.expertsUsed, normalize: true, scale: 1 } as const;
  const { postAttentionNorm, mlpNorm } = layer;
  const { weight } = sparse.router;
  if (h.device.backend.supports("norm_add_norms_router") && routesFused(h, weight)) {
    const norms = { delta: postAttentionNorm, y: mlpNorm, z: sparse.preNorm2, router: sparse.routerNorm };
    const { y, z, ids, weights } = normAddNormsRouter(h, o, norms, weight, sparse.expertScale, {
      ...routing,
      eps: c.eps,
    });
    return { b: y, x: z, ids, weights };
  }
  const b = addNormed(h, o, postAttentionNorm, mlpNorm, { eps: c.eps, scale: 1 })!;
  const r = linear(rmsNorm(h, sparse.routerNorm, c.eps), sparse.router);
  const x = rmsNorm(h, sparse.preNorm2, c.eps);
  return { b, x, ...router(r, undefined, routing, sparse.expertScale) };
}

/** Logits f32 [R, V] for normed hidden states [R, D]. */
function logits(c: Gemma4Config, head: Linear, x: Tensor): Tensor {
  const all = linear(x, head);
  return c.finalSoftcap > 0 ? softcap(all, c.finalSoftcap) : all;
}

/** P f32 [T, L * W]: what each layer adds for each token. h0 [T, D] is the scaled embedding. */
function perLayerInputs(c: Gemma4Config, w: PerLayerEmbedding, step: Step, h0: Tensor): Tensor {
  const a = embedding(w.table, step.tokens, Math.sqrt(c.perLayerWidth));
  // RMS(x / sqrt(D)) with eps is RMS(x) with D eps.
  const b = linear(h0, w.projection);
  headNorm(b, w.norm, c.eps * c.width, 0, c.layers, c.perLayerWidth);
  return addScaled(a, b, Math.SQRT1_2);
}

/** Results of the heads f32 [T, H * E] for the normed stream x [T, D]. */
function attend(c: Gemma4Config, i: number, layer: Layer, x: Tensor, step: Step): Tensor {
  const w = layer.attention;
  const { heads } = c;
  const [kvHeads, headDim] = [c.kvHeads[i]!, c.headDims[i]!];
  const outputs = w.qkv.map((part) => linear(x, part));
  const placed = (part: number) => ({ tensor: outputs[w.at[part]!.part]!, offset: w.at[part]!.offset });
  const q = placed(0);
  const k = w.kNorm && placed(1);
  const v = k && (w.at.length > 2 ? placed(2) : k); // else keys are values too, before the keys' own norm and rotation
  const pool = step.pools[layer.place.group]!;
  const cache = { keys: pool.keys[layer.place.slot]!, values: pool.values[layer.place.slot]! };
  const { sequences, positions } = step;
  const at = { pageTable: step.pageTables[layer.place.group]!, sequences, positions };
  const geometry = { kvHeads, headDim, pageSize: pool.pageSize };
  const turning = { neox: true, mscale: 1 };
  if (x.device.backend.supports("norm_rope_kv_write")) {
    const own = w.kNorm && k && v && { cache, k: k.tensor, v: v.tensor, kNorm: w.kNorm };
    const offsets = { qOffset: q.offset, kOffset: k?.offset ?? 0, vOffset: v?.offset ?? 0 };
    const params = { ...offsets, heads, ...geometry, ...turning, eps: c.eps, normValues: true };
    normRopeKvWrite(q.tensor, w.qNorm, own, at, layer.rotary, params);
  } else {
    const turn = ({ tensor, offset }: typeof q, norm: Tensor, count: number): void => {
      headNorm(tensor, norm, c.eps, offset, count, headDim);
      rope(tensor, positions, layer.rotary, { offset, heads: count, headDim, ...turning });
    };
    turn(q, w.qNorm, heads);
    if (w.kNorm && k && v) {
      // Values are normed without a weight.
      const values = rmsNormGroups(v.tensor, undefined, c.eps, v.offset, kvHeads, headDim);
      turn(k, w.kNorm, kvHeads);
      kvWrite(cache, k.tensor, values, at, { kOffset: k.offset, vOffset: v.offset, ...geometry });
    }
  }
  const window = c.slides[i] ? c.window : 0;
  return attention(q.tensor, cache, at, undefined, {
    ...{ qOffset: q.offset, heads, ...geometry, window, scale: 1, softcap: 0 },
  });
}
