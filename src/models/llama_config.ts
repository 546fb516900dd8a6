/** Hyper-parameters of the llama-type decoders, from GGUF metadata or from a checkpoint's `config.json`. */
import { unexpected } from "../core/error.ts";
import type { ModelConfig } from "./model.ts";
import type { RopeScaling } from "./rotary.ts";
import type { Settings } from "./settings.ts";
import { periodic, slidingFromCheckpoint, slidingFromGguf } from "./sliding_layers.ts";

export type LlamaConfig = ModelConfig & {
  /** One value per layer. */
  readonly feedForward: readonly number[];
  readonly heads: readonly number[];
  readonly kvHeads: readonly number[];
  readonly headDim: number;
  readonly rotaryDims: number;
  readonly eps: number;
  readonly ropeBase: number;
  readonly ropeScaling: RopeScaling;
  /** Of the sliding layers; undefined: as the others. */
  readonly slidingRope?: { readonly base: number; readonly scaling: RopeScaling };
  /** Pairs (i, i + n/2) instead of (2i, 2i+1): a matter of the file's row order. */
  readonly neox: boolean;
  /** Positions that a sliding layer sees, its own included. */
  readonly window: number;
  readonly slides: readonly boolean[];
  readonly attentionScale: number;
  /** 0 = none. */
  readonly attentionSoftcap: number;
  readonly embeddingScale: number;
  readonly activation: "silu" | "gelu";
  /** Norm weights are stored less one. */
  readonly zeroCentredNorms: boolean;
  /** Whether the head is the embedding; undefined: when the file has no head of its own. */
  readonly tied?: boolean;
  readonly experts: number;
  readonly expertsUsed: number;
  readonly expertFeedForward: number;
  readonly routing: "softmax" | "sigmoid" | "softmaxOfChosen";
  readonly normalizeExperts: boolean;
  readonly expertScale: number;
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
export const maxHeadDim = 4096;
const routings = { 1: "softmax", 2: "sigmoid", 3: "softmaxOfChosen" } as const;

/** From GGUF metadata, whose keys begin with the architecture. */
export function llamaConfigFromGguf(architecture: string, s: Settings, vocabularySize: number): LlamaConfig {
  const key = (name: string): string => `${architecture}.${name}`;
  const width = s.count(key("embedding_length"));
  const layers = s.layers(key("block_count"));
  const heads = s.perLayer(key("attention.head_count"), layers);
  const headDim = s.count(key("attention.key_length"), Math.floor(width / heads[0]!));
  const rotaryDims = s.count(key("rope.dimension_count"), headDim);
  const gemma = traits[architecture]!.gemma ?? false;
  const feedForward = s.perLayer(key("feed_forward_length"), layers, 0);
  const contextLength = s.count(key("context_length"));
  s.refuse(refusedInGguf(key, headDim, rotaryDims));
  const kvKey = key("attention.head_count_kv");
  return validated({
    architecture,
    name: s.string("general.name", architecture),
    ...{ vocabularySize, contextLength, width, layers, feedForward, heads },
    kvHeads: s.has(kvKey) ? s.perLayer(kvKey, layers) : heads,
    ...{ headDim, rotaryDims },
    eps: s.number(key("attention.layer_norm_rms_epsilon")),
    ropeBase: s.number(key("rope.freq_base"), 10000),
    ropeScaling: ggufScaling(s, key, contextLength),
    ...ggufSliding(s, key, gemma, layers, contextLength),
    neox: traits[architecture]!.neox,
    attentionScale: attentionScale(s.number(key("attention.scale"), 0), gemma, layers, headDim),
    attentionSoftcap: s.number(key("attn_logit_softcapping"), 0),
    embeddingScale: gemma ? Math.sqrt(width) : 1,
    activation: gemma ? "gelu" : "silu",
    zeroCentredNorms: false,
    experts: s.count(key("expert_count"), 0),
    expertsUsed: s.count(key("expert_used_count"), 0),
    expertFeedForward: s.count(key("expert_feed_forward_length"), feedForward[0]),
    routing: ggufRouting(s, key("expert_gating_func")),
    normalizeExperts: s.boolean(key("expert_weights_norm"), true),
    expertScale: s.number(key("expert_weights_scale"), 0) || 1,
    finalSoftcap: s.number(key("final_logit_softcapping"), 0),
  });
}

function ggufRouting(s: Settings, key: string): LlamaConfig["routing"] {
  const id = s.count(key, 1);
  if (id === 1 || id === 2 || id === 3) return routings[id];
  throw unexpected("unsupported", s.where, `${key} of 1, 2 or 3`, id);
}

/**
 * Gemma's sliding layers have a rotary base of their own and no scaling. A llama with a window (mistral's first) slides
 * in every layer; elsewhere a window without a pattern says nothing about which layers it is for.
 */
function ggufSliding(
  s: Settings,
  key: (name: string) => string,
  gemma: boolean,
  layers: number,
  contextLength: number,
): Pick<LlamaConfig, "window" | "slides" | "slidingRope"> {
  const pattern = key("attention.sliding_window_pattern");
  const window = gemma
    ? s.count(key("attention.sliding_window"))
    : s.count(key("attention.sliding_window"), 0);
  if (window === 0 || (!gemma && window >= contextLength)) return { window: 0, slides: periodic(layers, 1) };
  if (!gemma && !s.has(pattern) && !["llama", "mistral"].includes(key("").slice(0, -1))) {
    throw unexpected("unsupported", s.where, `${pattern} beside a sliding_window of ${window}`, "nothing");
  }
  const slides = slidingFromGguf(s, pattern, layers, gemma ? 6 : 0);
  const baseKey = key("rope.freq_base_swa");
  if (!gemma && !s.has(baseKey)) return { window, slides };
  return { window, slides, slidingRope: { base: s.number(baseKey, 10000), scaling: { type: "none" } } };
}

/** The 27B Gemma 3 (62 layers) divides by sqrt(168) instead of the root of its head width. */
function attentionScale(stated: number, gemma: boolean, layers: number, headDim: number): number {
  if (stated > 0) return stated;
  return gemma && layers === 62 ? 1 / Math.sqrt(168) : 1 / Math.sqrt(headDim);
}

/** Keys of neighbouring architectures that would change the answer, with the values at which they do not. */
export function refusedInGguf(
  key: (name: string) => string,
  headDim: number,
  rotaryDims: number,
): Record<string, readonly unknown[]> {
  const neutral: Record<string, readonly unknown[]> = {
    "attention.value_length": [headDim],
    "attention.key_length_swa": [headDim],
    "attention.value_length_swa": [headDim],
    "rope.dimension_count_swa": [rotaryDims],
    "attention.causal": [true],
    "attention.clamp_kqv": [0],
    "attention.max_alibi_bias": [0],
    "attention.shared_kv_layers": [0],
    "attention.temperature_scale": [0],
    "attention.temperature_length": [0],
    "rope.scaling.yarn_ext_factor": [1],
    "rope.scaling.yarn_attn_factor": [1],
    "rope.scaling.yarn_log_multiplier": [0],
    logit_scale: [0, 1],
    residual_scale: [0, 1],
    embedding_scale: [0, 1],
    use_parallel_residual: [false],
    expert_shared_count: [0],
    expert_group_count: [0, 1],
    embedding_length_per_layer_input: [0],
    nextn_predict_layers: [0],
    pooling_type: [0, 1, 2, 3, 4],
  };
  return Object.fromEntries(Object.entries(neutral).map(([name, values]) => [key(name), values]));
}

function ggufScaling(s: Settings, key: (name: string) => string, contextLength: number): RopeScaling {
  const factor = s.number(key("rope.scaling.factor"), s.number(key("rope.scale_linear"), 1));
  const type = s.string(key("rope.scaling.type"), factor === 1 || factor === 0 ? "none" : "linear");
  if (type === "none" || (type === "linear" && (factor === 1 || factor === 0))) return { type: "none" };
  if (!(factor > 0)) throw unexpected("file_malformed", s.where, "a rope scaling factor above 0", factor);
  if (type === "linear") return { type, factor };
  if (type !== "yarn") throw unexpected("unsupported", s.where, "rope scaling none, linear or yarn", type);
  return ggufYarn(s, key, factor, contextLength);
}

/** YaRN as ggml computes it for every family but GPT-OSS: with whole bounds. */
export function ggufYarn(
  s: Settings,
  key: (name: string) => string,
  factor: number,
  contextLength: number,
): Extract<RopeScaling, { type: "yarn" }> {
  return {
    type: "yarn",
    factor,
    originalContext: s.count(key("rope.scaling.original_context_length"), contextLength),
    betaFast: s.number(key("rope.scaling.yarn_beta_fast"), 32),
    betaSlow: s.number(key("rope.scaling.yarn_beta_slow"), 1),
    attentionFactor: s.number(key("rope.scaling.attn_factor"), 1),
    round: true,
  };
}

/** Settings of neighbouring checkpoints that would change the answer. */
export const refusedInCheckpoints: Readonly<Record<string, readonly unknown[]>> = {
  use_bidirectional_attention: [false],
  attention_chunk_size: [],
  logits_scaling: [1],
  logit_scale: [1],
  embedding_multiplier: [1],
  residual_multiplier: [1],
};

/** What transformers assumes for a Gemma 3 whose nested `text_config` leaves it out. */
const gemmaDefaults = {
  ...{ heads: 8, kvHeads: 4, headDim: 256, contextLength: 131072, eps: 1e-6, ropeBase: 1e6 },
  ...{ window: 4096, queryScale: 256 },
} as const;

/** From a checkpoint's `config.json`. */
export function llamaConfigFromCheckpoint(
  architecture: string,
  s: Settings,
  vocabularySize: number,
): LlamaConfig {
  const gemma = traits[architecture]!.gemma ?? false;
  const defaults: Partial<typeof gemmaDefaults> = gemma ? gemmaDefaults : {};
  s.refuse({ ...refusedInCheckpoints, num_experts: [0], num_local_experts: [0, 1] });
  const method = s.section("quantization_config")?.string("quant_method", "unnamed");
  if (method) throw unexpected("unsupported", s.where, "no quantization_config", `quant_method ${method}`);
  const width = s.count("hidden_size");
  const layers = s.layers("num_hidden_layers");
  const heads = s.count("num_attention_heads", defaults.heads);
  const headDim = s.count("head_dim", defaults.headDim ?? Math.floor(width / heads));
  const contextLength = s.count("max_position_embeddings", defaults.contextLength);
  const rope = s.section("rope_parameters") ?? s.section("rope_scaling");
  const full = rope?.section("full_attention") ?? rope;
  const partial = full?.number("partial_rotary_factor", s.number("partial_rotary_factor", 1));
  const queryScale = s.number("query_pre_attn_scalar", defaults.queryScale ?? 0);
  const each = (value: number): number[] => new Array<number>(layers).fill(value);
  return validated({
    architecture,
    name: s.string("_name_or_path", architecture),
    ...{ vocabularySize, contextLength, width, layers, headDim },
    feedForward: each(s.count("intermediate_size")),
    heads: each(heads),
    kvHeads: each(s.count("num_key_value_heads", defaults.kvHeads ?? heads)),
    rotaryDims: Math.round(headDim * (partial ?? s.number("partial_rotary_factor", 1))),
    eps: s.number("rms_norm_eps", defaults.eps),
    ropeBase: full?.number("rope_theta", ropeTheta(s, defaults)) ?? ropeTheta(s, defaults),
    ropeScaling: checkpointScaling(full, contextLength),
    ...checkpointSliding(architecture, s, rope, layers, contextLength),
    neox: true,
    attentionScale: queryScale > 0 ? 1 / Math.sqrt(queryScale) : 1 / Math.sqrt(headDim),
    attentionSoftcap: s.number("attn_logit_softcapping", 0),
    embeddingScale: gemma ? Math.sqrt(width) : 1,
    activation: checkpointActivation(s, gemma),
    zeroCentredNorms: gemma,
    ...(s.has("tie_word_embeddings") && { tied: s.boolean("tie_word_embeddings", false) }),
    ...{ experts: 0, expertsUsed: 0, expertFeedForward: 0, expertScale: 1 },
    ...({ routing: "softmax", normalizeExperts: true } as const),
    finalSoftcap: s.number("final_logit_softcapping", 0),
  });
}

function ropeTheta(s: Settings, defaults: { readonly ropeBase?: number }): number {
  return s.number("rope_theta", defaults.ropeBase ?? 10000);
}

function checkpointActivation(s: Settings, gemma: boolean): "silu" | "gelu" {
  const name = gemma ? s.string("hidden_activation", "gelu_pytorch_tanh") : s.string("hidden_act", "silu");
  if (name === "silu" || name === "swish") return "silu";
  if (name === "gelu_pytorch_tanh") return "gelu";
  throw unexpected("unsupported", s.where, "an activation silu or gelu_pytorch_tanh", name);
}

/** Which layers slide: by `layer_types`, or by the family's own rule. */
function checkpointSliding(
  architecture: string,
  s: Settings,
  rope: Settings | undefined,
  layers: number,
  contextLength: number,
): Pick<LlamaConfig, "window" | "slides" | "slidingRope"> {
  const none = { window: 0, slides: periodic(layers, 1) };
  switch (architecture) {
    case "gemma3": {
      const window = s.count("sliding_window", gemmaDefaults.window);
      const period = s.count("sliding_window_pattern", s.count("_sliding_window_pattern", 6));
      const slides = slidingFromCheckpoint(s, layers, periodic(layers, period));
      const own = rope?.section("sliding_attention");
      const base = own?.number("rope_theta", 10000) ?? s.number("rope_local_base_freq", 10000);
      return { window, slides, slidingRope: { base, scaling: checkpointScaling(own, contextLength) } };
    }
    case "mistral": {
      // A missing key means 4096 to transformers, null means none.
      const window = s.states("sliding_window") ? s.count("sliding_window", 0) : 4096;
      return window > 0 ? { window, slides: slidingFromCheckpoint(s, layers, periodic(layers, 0)) } : none;
    }
    case "qwen2":
    case "qwen3": {
      if (!s.boolean("use_sliding_window", false)) return none;
      const window = s.count("sliding_window", 4096);
      const from = s.count("max_window_layers", 28);
      const slides = none.slides.map((_, i) => i >= from);
      return { window, slides: slidingFromCheckpoint(s, layers, slides) };
    }
    default:
      return none;
  }
}

/** Rotary scaling of `rope_scaling` or `rope_parameters`. */
export function checkpointScaling(s: Settings | undefined, contextLength: number): RopeScaling {
  const type = s?.string("rope_type", s.string("type", "default")) ?? "default";
  if (!s || type === "default") return { type: "none" };
  s.refuse({ mscale: [], mscale_all_dim: [] });
  const factor = s.number("factor");
  if (!(factor > 0)) throw unexpected("file_malformed", s.where, "a factor above 0", factor);
  const originalContext = s.count("original_max_position_embeddings", contextLength);
  if (type === "linear") return { type, factor };
  if (type === "llama3") {
    const lowFactor = s.number("low_freq_factor");
    return { type, factor, lowFactor, highFactor: s.number("high_freq_factor"), originalContext };
  }
  if (type !== "yarn") throw unexpected("unsupported", "rope", "type default, linear, llama3 or yarn", type);
  const plain = 0.1 * Math.log(factor) + 1;
  return {
    type,
    factor,
    originalContext,
    betaFast: s.number("beta_fast", 32),
    betaSlow: s.number("beta_slow", 1),
    attentionFactor: s.has("attention_factor") ? s.number("attention_factor") / plain : 1,
    round: s.boolean("truncate", true),
  };
}

function validated(c: LlamaConfig): LlamaConfig {
  const wrong = inconsistency(c);
  if (wrong === undefined) return c;
  const { layers, width, heads, kvHeads, headDim, rotaryDims, eps, vocabularySize } = c;
  const facts = {
    layers,
    width,
    heads: heads[0],
    kvHeads: kvHeads[0],
    headDim,
    rotaryDims,
    eps,
    vocabularySize,
  };
  const experts = { experts: c.experts, expertsUsed: c.expertsUsed };
  throw unexpected("file_malformed", c.architecture, wrong, JSON.stringify({ ...facts, ...experts }));
}

function inconsistency(c: LlamaConfig): string | undefined {
  const grouped = c.heads.every((h, i) => h >= 1 && c.kvHeads[i]! >= 1 && h % c.kvHeads[i]! === 0);
  if (c.width < 1 || !grouped) return "a width and head counts above zero, heads a multiple of kv heads";
  if (c.headDim < 1 || c.headDim > maxHeadDim) return `a head width of 1 to ${maxHeadDim}`;
  if (c.rotaryDims < 2 || c.rotaryDims > c.headDim || c.rotaryDims % 2 !== 0)
    return "rotary dimensions even and within the head";
  if (c.experts > 0 && (c.expertsUsed < 1 || c.expertsUsed > c.experts)) return "1..experts used";
  if (c.eps < 0 || c.vocabularySize < 1) return "a vocabulary and eps >= 0";
  if (!(c.ropeBase > 1)) return "a rotary base above 1";
  if (c.slides.includes(true) && c.window < 1) return "a window of at least 1";
  return undefined;
}
