/**
 * Llama-type decoders: llama and mistral, qwen2 (q, k, v biases), qwen3 (per-head q and k norms), gemma3 (sandwich
 * norms, GELU, scaled embedding, five sliding layers to one global), and the sparse forms with softmax routing.
 *
 *   h = embed(tokens)
 *   h += Wo attention(rope(norm(Wq a)), rope(norm(Wk a)), Wv a)     a = RMS(h)
 *   h += Wd (act(Wg b) * (Wu b))                                      b = RMS(h)
 *   logits = W RMS(h)
 */
import { unexpected } from "../core/error.ts";
import {
  add,
  addRmsNorm,
  embedding,
  gatherRows,
  glu,
  matmul,
  moeCombine,
  moeMatmul,
  rmsNorm,
  router,
  softcap,
} from "../runtime/functions.ts";
import type { Tensor } from "../runtime/tensor.ts";
import {
  type AttentionShape,
  type AttentionWeights,
  attend,
  type CachePlace,
  cacheGroups,
  type GateUp,
  gatedMlp,
  type Linear,
  linear,
} from "./layers.ts";
import type { Model, ModelConfig, Step } from "./model.ts";
import { type RopeScaling, rotary } from "./rotary.ts";
import type { Settings } from "./settings.ts";
import type { Weights } from "./weights.ts";

export type LlamaConfig = ModelConfig & {
  readonly feedForward: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly rotaryDims: number;
  readonly eps: number;
  readonly ropeBase: number;
  /** Base of the sliding layers; they are not scaled. */
  readonly ropeBaseSliding: number;
  readonly ropeScaling: RopeScaling;
  /** Pairs (i, i + n/2) instead of (2i, 2i+1): a matter of the file's row order. */
  readonly neox: boolean;
  /** 0 = no sliding layers; otherwise layer i slides unless it is the last of each `slidingPattern`. */
  readonly window: number;
  readonly slidingPattern: number;
  readonly attentionScale: number;
  readonly embeddingScale: number;
  readonly activation: "silu" | "gelu";
  /** Norm weights are stored less one. */
  readonly zeroCentredNorms: boolean;
  readonly experts: number;
  readonly expertsUsed: number;
  readonly expertFeedForward: number;
  readonly normalizeExperts: boolean;
  readonly finalSoftcap: number;
};

/** Family traits that files do not state. */
const traits: Readonly<Record<string, { neox: boolean; gemma?: boolean }>> = {
  llama: { neox: false },
  mistral: { neox: false },
  qwen2: { neox: true },
  qwen3: { neox: true },
  qwen3moe: { neox: true },
  gemma3: { neox: true, gemma: true },
};

export const llamaArchitectures: readonly string[] = Object.keys(traits);

/** From GGUF metadata, whose keys begin with the architecture. */
export function llamaConfigFromGguf(architecture: string, s: Settings, vocabularySize: number): LlamaConfig {
  const key = (name: string): string => `${architecture}.${name}`;
  const width = s.count(key("embedding_length"));
  const layers = s.count(key("block_count"));
  const heads = s.count(key("attention.head_count"));
  const headDim = s.count(key("attention.key_length"), Math.floor(width / heads));
  const gemma = traits[architecture]!.gemma ?? false;
  const feedForward = s.count(key("feed_forward_length"), 0);
  const contextLength = s.count(key("context_length"));
  const expertsUsed = s.count(key("expert_used_count"), 0);
  return validated({
    architecture,
    name: s.string("general.name", architecture),
    vocabularySize,
    contextLength,
    width,
    layers,
    feedForward,
    heads,
    kvHeads: s.count(key("attention.head_count_kv"), heads),
    headDim,
    rotaryDims: s.count(key("rope.dimension_count"), headDim),
    eps: s.number(key("attention.layer_norm_rms_epsilon")),
    ropeBase: s.number(key("rope.freq_base"), 10000),
    ropeBaseSliding: s.number(key("rope.freq_base_swa"), 10000),
    ropeScaling: ggufScaling(s, key, contextLength),
    neox: traits[architecture]!.neox,
    window: gemma ? s.count(key("attention.sliding_window")) : 0,
    slidingPattern: s.count(key("attention.sliding_window_pattern"), 6),
    attentionScale: attentionScale(s.number(key("attention.scale"), 0), gemma, layers, headDim),
    embeddingScale: gemma ? Math.sqrt(width) : 1,
    activation: gemma ? "gelu" : "silu",
    zeroCentredNorms: false,
    experts: s.count(key("expert_count"), 0),
    expertsUsed,
    expertFeedForward: s.count(key("expert_feed_forward_length"), feedForward),
    normalizeExperts: s.boolean(key("expert_weights_norm"), true),
    finalSoftcap: s.number(key("final_logit_softcapping"), 0),
  });
}

/** The 27B Gemma 3 (62 layers) divides by sqrt(168) instead of the root of its head width. */
function attentionScale(stated: number, gemma: boolean, layers: number, headDim: number): number {
  if (stated > 0) return stated;
  return gemma && layers === 62 ? 1 / Math.sqrt(168) : 1 / Math.sqrt(headDim);
}

function ggufScaling(s: Settings, key: (name: string) => string, contextLength: number): RopeScaling {
  const factor = s.number(key("rope.scaling.factor"), s.number(key("rope.scale_linear"), 1));
  const type = s.string(key("rope.scaling.type"), factor === 1 || factor === 0 ? "none" : "linear");
  if (type === "none" || (type === "linear" && (factor === 1 || factor === 0))) return { type: "none" };
  if (type === "linear") return { type, factor };
  if (type !== "yarn") throw unexpected("unsupported", "rope", "scaling none, linear or yarn", type);
  return {
    type,
    factor,
    originalContext: s.count(key("rope.scaling.original_context_length"), contextLength),
    betaFast: s.number(key("rope.scaling.yarn_beta_fast"), 32),
    betaSlow: s.number(key("rope.scaling.yarn_beta_slow"), 1),
    attentionFactor: s.number(key("rope.scaling.attn_factor"), 1),
    round: true,
  };
}

/** From a checkpoint's `config.json`. */
export function llamaConfigFromCheckpoint(
  architecture: string,
  s: Settings,
  vocabularySize: number,
): LlamaConfig {
  const width = s.count("hidden_size");
  const layers = s.count("num_hidden_layers");
  const heads = s.count("num_attention_heads");
  const headDim = s.count("head_dim", Math.floor(width / heads));
  const gemma = traits[architecture]!.gemma ?? false;
  const contextLength = s.count("max_position_embeddings");
  const rope = s.section("rope_parameters") ?? s.section("rope_scaling");
  const full = rope?.section("full_attention") ?? rope;
  const queryScale = s.number("query_pre_attn_scalar", 0);
  return validated({
    architecture,
    name: s.string("_name_or_path", architecture),
    vocabularySize,
    contextLength,
    width,
    layers,
    feedForward: s.count("intermediate_size", 0),
    heads,
    kvHeads: s.count("num_key_value_heads", heads),
    headDim,
    rotaryDims: Math.round(headDim * s.number("partial_rotary_factor", 1)),
    eps: s.number("rms_norm_eps"),
    ropeBase: full?.has("rope_theta") ? full.number("rope_theta") : s.number("rope_theta", 10000),
    ropeBaseSliding:
      rope?.section("sliding_attention")?.number("rope_theta", 10000) ??
      s.number("rope_local_base_freq", 10000),
    ropeScaling: checkpointScaling(full, contextLength),
    neox: true,
    window: gemma ? s.count("sliding_window") : 0,
    slidingPattern: s.count("sliding_window_pattern", 6),
    attentionScale: queryScale > 0 ? 1 / Math.sqrt(queryScale) : 1 / Math.sqrt(headDim),
    embeddingScale: gemma ? Math.sqrt(width) : 1,
    activation: gemma ? "gelu" : "silu",
    zeroCentredNorms: gemma,
    experts: s.count("num_experts", s.count("num_local_experts", 0)),
    expertsUsed: s.count("num_experts_per_tok", 0),
    expertFeedForward: s.count("moe_intermediate_size", s.count("intermediate_size", 0)),
    normalizeExperts: s.boolean("norm_topk_prob", true),
    finalSoftcap: s.number("final_logit_softcapping", 0),
  });
}

export function checkpointScaling(s: Settings | undefined, contextLength: number): RopeScaling {
  const type = s?.string("rope_type", s.string("type", "default")) ?? "default";
  if (!s || type === "default") return { type: "none" };
  const factor = s.number("factor");
  const originalContext = s.count("original_max_position_embeddings", contextLength);
  if (type === "linear") return { type, factor };
  if (type === "llama3") {
    const lowFactor = s.number("low_freq_factor");
    return { type, factor, lowFactor, highFactor: s.number("high_freq_factor"), originalContext };
  }
  if (type !== "yarn") throw unexpected("unsupported", "rope", "type default, linear, llama3 or yarn", type);
  const betaFast = s.number("beta_fast", 32);
  const betaSlow = s.number("beta_slow", 1);
  const plain = 0.1 * Math.log(factor) + 1;
  const attentionFactor = s.has("attention_factor") ? s.number("attention_factor") / plain : 1;
  return {
    type,
    factor,
    originalContext,
    betaFast,
    betaSlow,
    attentionFactor,
    round: s.boolean("truncate", true),
  };
}

function validated(c: LlamaConfig): LlamaConfig {
  const wrong =
    c.width < 1 || c.layers < 1 || c.heads < 1 || c.kvHeads < 1 || c.headDim < 1 || c.heads % c.kvHeads !== 0
      ? "widths and head counts above zero, heads a multiple of kv heads"
      : c.rotaryDims > c.headDim || c.rotaryDims % 2 !== 0
        ? "rotary dimensions even and within the head"
        : c.experts > 0 && (c.expertsUsed < 1 || c.expertsUsed > c.experts)
          ? "1..experts used"
          : c.eps < 0 || c.vocabularySize < 1
            ? "a vocabulary and eps >= 0"
            : "";
  if (wrong) throw unexpected("file_malformed", c.architecture, wrong, JSON.stringify(c));
  return c;
}

type Mlp =
  | { readonly kind: "dense"; readonly gateUp: GateUp; readonly down: Linear }
  | {
      readonly kind: "sparse";
      readonly router: Linear;
      readonly gateUp: readonly [Linear] | readonly [Linear, Linear];
      readonly down: Linear;
    };

type Layer = {
  readonly attentionNorm: Tensor; // [D]
  readonly attention: AttentionWeights;
  readonly shape: AttentionShape;
  readonly postAttentionNorm?: Tensor; // [D], gemma3
  readonly mlpNorm: Tensor; // [D]
  readonly mlp: Mlp;
  readonly postMlpNorm?: Tensor; // [D], gemma3
};

export function loadLlama(c: LlamaConfig, w: Weights): Model {
  const rotaries = rotaryTables(c, w);
  const layers = Array.from({ length: c.layers }, (_, i) => loadLayer(c, w, i, rotaries));
  const { groups, places } = cacheGroups(layers.map(({ shape }) => shape));
  const tied = !w.has("output.weight");
  const head = w.linear(tied ? "token_embd" : "output", c.vocabularySize, c.width);
  const table = tied ? head.weight : w.table("token_embd", c.vocabularySize, c.width);
  const outputNorm = norm(c, w, "output_norm", c.width);
  return {
    config: c,
    cacheGroups: groups,
    parameters: w.parameters,
    weightBytes: w.residentBytes,
    forward: (step) => forward(c, { table, layers, places, outputNorm, head }, step),
    free: () => w.free(),
  };
}

function norm(c: LlamaConfig, w: Weights, name: string, width: number): Tensor {
  return w.vector(`${name}.weight`, width, c.zeroCentredNorms ? 1 : 0);
}

function rotaryTables(
  c: LlamaConfig,
  w: Weights,
): { full: AttentionShape["rotary"]; sliding: AttentionShape["rotary"] } {
  const factors = w.has("rope_freqs.weight")
    ? w.hostVector("rope_freqs.weight", c.rotaryDims / 2)
    : undefined;
  const full = rotary(c.ropeBase, c.rotaryDims, c.ropeScaling, factors);
  const onDevice = (r: { invFreq: Float32Array; mscale: number }): AttentionShape["rotary"] => ({
    invFreq: w.constant(r.invFreq),
    mscale: r.mscale,
  });
  const sliding =
    c.window > 0 ? onDevice(rotary(c.ropeBaseSliding, c.rotaryDims, { type: "none" })) : undefined;
  const placed = onDevice(full);
  return { full: placed, sliding: sliding ?? placed };
}

function loadLayer(c: LlamaConfig, w: Weights, i: number, rotaries: ReturnType<typeof rotaryTables>): Layer {
  const name = (part: string): string => `blk.${i}.${part}`;
  const slides = c.window > 0 && i % c.slidingPattern < c.slidingPattern - 1;
  const optionalNorm = (part: string, width: number): Tensor | undefined =>
    w.has(`${name(part)}.weight`) ? norm(c, w, name(part), width) : undefined;
  return {
    attentionNorm: norm(c, w, name("attn_norm"), c.width),
    attention: loadAttention(c, w, i, optionalNorm),
    shape: {
      heads: c.heads,
      kvHeads: c.kvHeads,
      headDim: c.headDim,
      window: slides ? c.window : 0,
      scale: c.attentionScale,
      softcap: 0,
      eps: c.eps,
      neox: c.neox,
      rotary: slides ? rotaries.sliding : rotaries.full,
    },
    postAttentionNorm: optionalNorm("post_attention_norm", c.width),
    mlpNorm: norm(c, w, name("ffn_norm"), c.width),
    mlp: w.has(`${name("ffn_gate_inp")}.weight`) ? loadSparse(c, w, i) : loadDense(c, w, i),
    postMlpNorm: optionalNorm("post_ffw_norm", c.width),
  };
}

function loadAttention(
  c: LlamaConfig,
  w: Weights,
  i: number,
  optionalNorm: (part: string, width: number) => Tensor | undefined,
): AttentionWeights {
  const q = c.heads * c.headDim;
  const kv = c.kvHeads * c.headDim;
  const qkv = w.has(`blk.${i}.attn_qkv.weight`)
    ? {
        parts: [w.linear(`blk.${i}.attn_qkv`, q + 2 * kv, c.width)],
        at: [0, q, q + kv].map((offset) => ({ part: 0, offset })),
      }
    : w.linears(
        [
          { name: `blk.${i}.attn_q`, outputs: q },
          { name: `blk.${i}.attn_k`, outputs: kv },
          { name: `blk.${i}.attn_v`, outputs: kv },
        ],
        c.width,
      );
  return {
    qkv: qkv.parts,
    at: qkv.at,
    output: w.linear(`blk.${i}.attn_output`, c.width, q),
    qNorm: optionalNorm("attn_q_norm", c.headDim),
    kNorm: optionalNorm("attn_k_norm", c.headDim),
  };
}

function loadDense(c: LlamaConfig, w: Weights, i: number): Mlp {
  return {
    kind: "dense",
    gateUp: w.gateUp(`blk.${i}.ffn_gate`, `blk.${i}.ffn_up`, c.feedForward, c.width),
    down: w.linear(`blk.${i}.ffn_down`, c.width, c.feedForward),
  };
}

function loadSparse(c: LlamaConfig, w: Weights, i: number): Mlp {
  const names = [`blk.${i}.ffn_gate_exps`, `blk.${i}.ffn_up_exps`];
  const f = c.expertFeedForward;
  const one = (part: readonly string[]): Linear => w.experts(part, c.experts, f, c.width);
  return {
    kind: "sparse",
    router: w.linear(`blk.${i}.ffn_gate_inp`, c.experts, c.width),
    gateUp: w.canJoinExperts(names, f) ? [one(names)] : [one([names[0]!]), one([names[1]!])],
    down: w.experts([`blk.${i}.ffn_down_exps`], c.experts, c.width, f),
  };
}

type Parts = {
  readonly table: Tensor; // [V, D]
  readonly layers: readonly Layer[];
  readonly places: readonly CachePlace[];
  readonly outputNorm: Tensor; // [D]
  readonly head: Linear; // [V, D]
};

/** Logits f32 [R, V] of the wanted rows. */
function forward(c: LlamaConfig, parts: Parts, step: Step): Tensor {
  const { table, layers, places, outputNorm, head } = parts;
  let h = embedding(table, step.tokens, c.embeddingScale); // [T, D]
  const device = h.device;
  for (const [i, layer] of layers.entries()) {
    const last = i === layers.length - 1;
    // Past the last layer's attention only the wanted rows go on.
    const kept = last ? device.temporary({ dtype: "f32", shape: [step.outputRows.shape[0]!, c.width] }) : h;
    {
      using _layer = device.scope();
      let heads = attend(
        rmsNorm(h, layer.attentionNorm, c.eps),
        layer.attention,
        layer.shape,
        step,
        places[i]!,
      );
      if (last) {
        heads = gatherRows(heads, step.outputRows);
        h = gatherRows(h, step.outputRows);
      }
      let o = linear(heads, layer.attention.output); // [T, D]
      if (layer.postAttentionNorm) o = rmsNorm(o, layer.postAttentionNorm, c.eps);
      const b = addRmsNorm(h, o, layer.mlpNorm, c.eps); // h += o
      let m = mlp(c, layer.mlp, b);
      if (layer.postMlpNorm) m = rmsNorm(m, layer.postMlpNorm, c.eps);
      add(h, m, kept);
    }
    h = kept;
  }
  const logits = matmul(rmsNorm(h, outputNorm, c.eps), head.weight, head.bias);
  return c.finalSoftcap > 0 ? softcap(logits, c.finalSoftcap) : logits;
}

function mlp(c: LlamaConfig, w: Mlp, b: Tensor): Tensor {
  if (w.kind === "dense") return gatedMlp(b, w.gateUp, w.down, c.activation);
  const { ids, weights } = router(linear(b, w.router), undefined, {
    mode: "softmax",
    used: c.expertsUsed,
    normalize: c.normalizeExperts,
    scale: 1,
  });
  const [gate, up] = w.gateUp;
  const gated = glu(
    moeMatmul(b, gate.weight, gate.bias, ids),
    up ? moeMatmul(b, up.weight, up.bias, ids) : undefined,
    { kind: c.activation },
  );
  return moeCombine(moeMatmul(gated, w.down.weight, w.down.bias, ids), weights);
}
