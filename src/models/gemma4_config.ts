/** Hyper-parameters of Gemma 4's text model, from GGUF metadata or from a checkpoint's `config.json`. */
import { unexpected } from "../core/error.ts";
import type { ModelConfig } from "./model.ts";
import type { Settings } from "./settings.ts";
import { periodic, slidingFromCheckpoint, slidingFromGguf } from "./sliding_layers.ts";

export type Gemma4Config = ModelConfig & {
  /** One value per layer. */
  readonly feedForward: readonly number[];
  readonly heads: number;
  readonly kvHeads: readonly number[];
  readonly headDims: readonly number[];
  readonly slides: readonly boolean[];
  readonly window: number;
  /** The last so many layers attend to keys and values of an earlier layer of their kind. */
  readonly sharedLayers: number;
  readonly eps: number;
  readonly slidingBase: number;
  readonly globalBase: number;
  /** Share of a global head's pairs that turn; undefined: the file has `rope_freqs`. */
  readonly partialRotary?: number;
  /** Width of the embedding that each layer gets for each token; 0 = none. */
  readonly perLayerWidth: number;
  readonly experts: number;
  readonly expertsUsed: number;
  readonly expertFeedForward: number;
  readonly finalSoftcap: number;
  /** sqrt(width), or its bf16 value as a bf16 reference multiplies by. */
  readonly embeddingScale: number;
};

export function gemma4ConfigFromGguf(s: Settings, vocabularySize: number): Gemma4Config {
  const key = (name: string): string => `gemma4.${name}`;
  const layers = s.layers(key("block_count"));
  const width = s.count(key("embedding_length"));
  const slides = slidingFromGguf(s, key("attention.sliding_window_pattern"), layers, 6);
  const globalDim = s.count(key("attention.key_length"));
  const slidingDim = s.count(key("attention.key_length_swa"), globalDim);
  s.refuse({
    [key("attention.value_length")]: [globalDim],
    [key("attention.value_length_swa")]: [slidingDim],
    [key("rope.dimension_count")]: [globalDim],
    [key("rope.dimension_count_swa")]: [slidingDim],
    [key("attention.scale")]: [1],
    [key("attn_logit_softcapping")]: [0],
    [key("expert_gating_func")]: [1],
    [key("rope.scaling.factor")]: [1],
    [key("nextn_predict_layers")]: [0],
  });
  return validated({
    architecture: "gemma4",
    name: s.string("general.name", "gemma4"),
    ...{ vocabularySize, width, layers, slides },
    contextLength: s.count(key("context_length")),
    feedForward: s.perLayer(key("feed_forward_length"), layers),
    heads: s.count(key("attention.head_count")),
    kvHeads: s.perLayer(key("attention.head_count_kv"), layers),
    headDims: slides.map((slide) => (slide ? slidingDim : globalDim)),
    window: s.count(key("attention.sliding_window")),
    sharedLayers: s.count(key("attention.shared_kv_layers"), 0),
    eps: s.number(key("attention.layer_norm_rms_epsilon")),
    slidingBase: s.number(key("rope.freq_base_swa"), 10000),
    globalBase: s.number(key("rope.freq_base"), 1e6),
    perLayerWidth: s.count(key("embedding_length_per_layer_input"), 0),
    experts: s.count(key("expert_count"), 0),
    expertsUsed: s.count(key("expert_used_count"), 0),
    expertFeedForward: s.count(key("expert_feed_forward_length"), 0),
    finalSoftcap: s.number(key("final_logit_softcapping"), 30),
    embeddingScale: Math.sqrt(width),
  });
}

export function gemma4ConfigFromCheckpoint(s: Settings, vocabularySize: number): Gemma4Config {
  const layers = s.layers("num_hidden_layers");
  const width = s.count("hidden_size");
  const slides = slidingFromCheckpoint(s, layers, periodic(layers, 6));
  const headDim = s.count("head_dim", 256);
  const kvHeads = s.count("num_key_value_heads");
  s.refuse({
    use_bidirectional_attention: [false],
    attention_bias: [false],
    hidden_activation: ["gelu_pytorch_tanh"],
    query_pre_attn_scalar: [1],
    tie_word_embeddings: [true],
  });
  const rope = s.section("rope_parameters");
  const global = rope?.section("full_attention");
  const experts = s.boolean("enable_moe_block", false);
  const own = s.section("per_layer_config");
  const ofLayer = (i: number, key: string, plain: number, wide: number): number =>
    own?.section(String(i))?.count(key, plain) ?? (slides[i] ? plain : wide);
  const all = Array.from({ length: layers }, (_, i) => i);
  const sharedLayers = s.count("num_kv_shared_layers", 0);
  const feedForward = s.count("intermediate_size");
  const doubled = s.boolean("use_double_wide_mlp", false);
  return validated({
    architecture: "gemma4",
    name: s.string("_name_or_path", "gemma4"),
    ...{ vocabularySize, width, layers, slides, sharedLayers },
    contextLength: s.count("max_position_embeddings", 131072),
    feedForward: all.map((i) => (doubled && i >= layers - sharedLayers ? 2 : 1) * feedForward),
    heads: s.count("num_attention_heads"),
    kvHeads: all.map((i) =>
      ofLayer(i, "num_key_value_heads", kvHeads, s.count("num_global_key_value_heads", kvHeads)),
    ),
    headDims: all.map((i) => ofLayer(i, "head_dim", headDim, s.count("global_head_dim", headDim))),
    window: s.count("sliding_window"),
    eps: s.number("rms_norm_eps", 1e-6),
    slidingBase: rope?.section("sliding_attention")?.number("rope_theta", 10000) ?? 10000,
    globalBase: global?.number("rope_theta", 1e6) ?? 1e6,
    partialRotary: global?.number("partial_rotary_factor", 0.25) ?? 0.25,
    perLayerWidth: s.count("hidden_size_per_layer_input", 0),
    experts: experts ? s.count("num_experts") : 0,
    expertsUsed: experts ? s.count("top_k_experts") : 0,
    expertFeedForward: experts ? s.count("moe_intermediate_size") : 0,
    finalSoftcap: s.number("final_logit_softcapping", 0),
    embeddingScale: Math.sqrt(width),
  });
}

/** Where layer `i`'s keys and values are: its own place, or that of the last earlier layer of its kind that has some. */
export function keyValueSource(c: Gemma4Config, i: number): number {
  const first = c.layers - c.sharedLayers;
  if (i < first) return i;
  let source = first - 1;
  while (source >= 0 && c.slides[source] !== c.slides[i]) source--;
  return source;
}

function validated(c: Gemma4Config): Gemma4Config {
  const sound =
    c.width > 0 &&
    c.heads > 0 &&
    c.kvHeads.every((n) => n > 0 && c.heads % n === 0) &&
    c.headDims.every((n) => n >= 2 && n <= 4096 && n % 2 === 0) &&
    c.sharedLayers >= 0 &&
    c.sharedLayers < c.layers &&
    c.slides.every((_, i) => keyValueSource(c, i) >= 0) &&
    c.window > 0 &&
    (c.experts === 0 || (c.expertsUsed >= 1 && c.expertsUsed <= c.experts && c.expertFeedForward > 0));
  if (sound) return c;
  const facts = { heads: c.heads, kvHeads: c.kvHeads[0], headDim: c.headDims[0], shared: c.sharedLayers };
  throw unexpected(
    "file_malformed",
    "gemma4",
    "consistent head, layer and expert counts",
    JSON.stringify(facts),
  );
}
