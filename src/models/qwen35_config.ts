/** Hyper-parameters of Qwen3.5's text models, dense and sparse, from GGUF metadata or a checkpoint's `config.json`. */
import { unexpected } from "../core/error.ts";
import type { ModelConfig } from "./model.ts";
import type { Settings } from "./settings.ts";

export type Qwen35Config = ModelConfig & {
  readonly architecture: "qwen35" | "qwen35moe";
  /** Blocks behind the trunk that predict the token after the next. */
  readonly draftBlocks: number;
  /** Per layer: gated delta rule (true) or gated full attention. */
  readonly recurrent: readonly boolean[];
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly rotaryDims: number;
  readonly ropeBase: number;
  readonly attentionScale: number;
  readonly eps: number;
  /** Of the recurrent layers: value heads are a multiple of key heads. */
  readonly keyHeads: number;
  readonly valueHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  readonly convolution: number;
  /** Which key head value head v reads: v mod keyHeads (tiled), or v / (valueHeads / keyHeads) (grouped). */
  readonly tiledValueHeads: boolean;
  /** Width of the dense MLP; 0 in sparse models. */
  readonly feedForward: number;
  readonly experts: number;
  readonly expertsUsed: number;
  readonly expertFeedForward: number;
  readonly sharedFeedForward: number;
  readonly expertScale: number;
  /** Checkpoints hold norm weights less one and the logarithm of the decay. */
  readonly fromCheckpoint: boolean;
  /** Undefined: tied where the file has no head of its own. */
  readonly tied?: boolean;
};

export const qwen35Architectures = ["qwen35", "qwen35moe"] as const;
export const qwen35Checkpoints = ["qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"] as const;

/** GGUF's name of a checkpoint's architecture. */
export function qwen35Architecture(modelType: string): Qwen35Config["architecture"] {
  return modelType.startsWith("qwen3_5_moe") ? "qwen35moe" : "qwen35";
}

const eachFourth = 4;

export function qwen35ConfigFromGguf(
  architecture: Qwen35Config["architecture"],
  s: Settings,
  vocabularySize: number,
): Qwen35Config {
  const key = (name: string): string => `${architecture}.${name}`;
  const blocks = s.layers(key("block_count"));
  const draftBlocks = s.count(key("nextn_predict_layers"), 0);
  const layers = blocks - draftBlocks;
  if (layers < 1) {
    const expected = `fewer blocks in ${key("nextn_predict_layers")} than the ${blocks} of all`;
    throw unexpected("file_malformed", s.where, expected, draftBlocks);
  }
  const width = s.count(key("embedding_length"));
  const heads = s.count(key("attention.head_count"));
  const headDim = s.count(key("attention.key_length"), Math.floor(width / heads));
  const rotaryDims = s.count(key("rope.dimension_count"), headDim);
  const keyDim = s.count(key("ssm.state_size"));
  const valueHeads = s.count(key("ssm.time_step_rank"));
  s.refuse({
    [key("attention.value_length")]: [headDim],
    [key("attention.sliding_window")]: [0],
    [key("attention.clamp_kqv")]: [0],
    [key("attn_logit_softcapping")]: [0],
    [key("final_logit_softcapping")]: [0],
    [key("expert_gating_func")]: [0, 1],
    [key("expert_weights_norm")]: [true],
    [key("rope.scaling.type")]: ["none", "linear"],
    [key("rope.scaling.factor")]: [0, 1],
  });
  const experts = s.count(key("expert_count"), 0);
  const recurrent = recurrentInGguf(s, key, layers);
  const kvHeads = s.perLayer(key("attention.head_count_kv"), layers, heads);
  const config = validated(s, {
    architecture,
    name: s.string("general.name", architecture),
    ...{ vocabularySize, width, layers, draftBlocks, recurrent, heads, headDim, rotaryDims },
    contextLength: s.count(key("context_length")),
    // writers that list a number per layer put 0 where there are no keys
    kvHeads: kvHeads.find((n, i) => n > 0 && !recurrent[i]) ?? kvHeads[0]!,
    ropeBase: s.number(key("rope.freq_base"), 1e7),
    attentionScale: s.number(key("attention.scale"), 0) || 1 / Math.sqrt(headDim),
    eps: s.number(key("attention.layer_norm_rms_epsilon")),
    keyHeads: s.count(key("ssm.group_count")),
    ...{ valueHeads, keyDim },
    valueDim: s.count(key("ssm.inner_size")) / Math.max(1, valueHeads),
    convolution: s.count(key("ssm.conv_kernel")),
    tiledValueHeads: s.boolean(key("ssm.v_head_reordered"), true),
    feedForward: experts > 0 ? 0 : s.count(key("feed_forward_length")),
    experts,
    expertsUsed: s.count(key("expert_used_count"), 0),
    expertFeedForward: s.count(key("expert_feed_forward_length"), 0),
    sharedFeedForward: experts > 0 ? s.count(key("expert_shared_feed_forward_length"), 0) : 0,
    expertScale: s.number(key("expert_weights_scale"), 1) || 1,
    fromCheckpoint: false,
  });
  refuseFourthStream(s, key("rope.dimension_sections"), rotaryDims / 2);
  return config;
}

function recurrentInGguf(s: Settings, key: (name: string) => string, layers: number): boolean[] {
  const list = s.list(key("attention.recurrent_layers"));
  if (!list) return periodic(layers, s.count(key("full_attention_interval"), eachFourth));
  if (list.length >= layers) return list.slice(0, layers).map(Boolean);
  const expected = `true or false for each of ${layers} layers in ${key("attention.recurrent_layers")}`;
  throw unexpected("file_malformed", s.where, expected, `${list.length} values`);
}

/** Every `interval`-th layer has full attention. */
function periodic(layers: number, interval: number): boolean[] {
  return Array.from({ length: layers }, (_, i) => interval === 0 || (i + 1) % interval !== 0);
}

/**
 * Pairs take their position from time, height or width, which are one number in text, or from a fourth stream, which is 0
 * there; no file is known that gives a pair to the fourth.
 */
function refuseFourthStream(s: Settings, key: string, pairs: number): void {
  const sections = s.list(key)?.map(Number);
  if (!sections || sections.every((n) => n === 0)) return;
  const [time = 0, height = 0, width = 0] = sections;
  const sum = sections.reduce((a, b) => a + b, 0);
  const limits = [time, height, width];
  for (let pair = 0; pair < pairs; pair++) {
    const sector = pair % sum;
    if (sector < 3 * limits[sector % 3]!) continue;
    const got = `[${sections.join(", ")}] of ${pairs} pairs`;
    throw unexpected("unsupported", s.where, `${key} that leave no pair to a fourth position`, got);
  }
}

export function qwen35ConfigFromCheckpoint(
  modelType: string,
  s: Settings,
  vocabularySize: number,
): Qwen35Config {
  const layers = s.layers("num_hidden_layers");
  const rope = s.section("rope_parameters") ?? s.section("rope_scaling") ?? s;
  const headDim = s.count("head_dim", 256);
  const architecture = qwen35Architecture(modelType);
  const sparse = architecture === "qwen35moe";
  s.refuse({
    attention_bias: [false],
    hidden_act: ["silu"],
    attn_output_gate: [true],
    norm_topk_prob: [true],
    decoder_sparse_step: [1],
    quantization_config: [],
    mamba_ssm_dtype: ["float32"],
  });
  if (s.list("mlp_only_layers")?.length) s.refuse({ mlp_only_layers: [] });
  rope.refuse({ rope_type: ["default"], type: ["default"] });
  const partial = rope.number("partial_rotary_factor", s.number("partial_rotary_factor", 0.25));
  return validated(s, {
    architecture,
    name: s.string("_name_or_path", architecture),
    ...{ vocabularySize, layers, headDim, width: s.count("hidden_size") },
    contextLength: s.count("max_position_embeddings", 32768),
    draftBlocks: s.count("mtp_num_hidden_layers", 0),
    recurrent: recurrentInCheckpoint(s, layers),
    heads: s.count("num_attention_heads"),
    kvHeads: s.count("num_key_value_heads"),
    rotaryDims: Math.floor(partial * headDim),
    ropeBase: rope.number("rope_theta", s.number("rope_theta", 1e7)),
    attentionScale: 1 / Math.sqrt(headDim),
    eps: s.number("rms_norm_eps", 1e-6),
    keyHeads: s.count("linear_num_key_heads", 16),
    valueHeads: s.count("linear_num_value_heads", 32),
    keyDim: s.count("linear_key_head_dim", 128),
    valueDim: s.count("linear_value_head_dim", 128),
    convolution: s.count("linear_conv_kernel_dim", 4),
    tiledValueHeads: false,
    feedForward: sparse ? 0 : s.count("intermediate_size"),
    experts: sparse ? s.count("num_experts") : 0,
    expertsUsed: sparse ? s.count("num_experts_per_tok") : 0,
    expertFeedForward: sparse ? s.count("moe_intermediate_size") : 0,
    sharedFeedForward: sparse ? s.count("shared_expert_intermediate_size", 0) : 0,
    expertScale: 1,
    fromCheckpoint: true,
    tied: s.boolean("tie_word_embeddings", false),
  });
}

function recurrentInCheckpoint(s: Settings, layers: number): boolean[] {
  const kinds = s.list("layer_types");
  if (!kinds) return periodic(layers, s.count("full_attention_interval", eachFourth));
  if (kinds.length < layers)
    throw unexpected("file_malformed", s.where, `${layers} layer_types`, kinds.length);
  return kinds.slice(0, layers).map((kind) => {
    if (kind === "linear_attention") return true;
    if (kind === "full_attention") return false;
    const expected = "layer_types of linear_attention and full_attention";
    throw unexpected("unsupported", s.where, expected, JSON.stringify(kind) ?? "nothing");
  });
}

/** Rows of a head must fill whole panels of packed weights, since queries and gates are told apart there. */
const panelRows = 16;

function validated(s: Settings, c: Qwen35Config): Qwen35Config {
  const { heads, kvHeads, headDim, rotaryDims, keyHeads, valueHeads, keyDim, valueDim } = c;
  const positive = [c.width, heads, kvHeads, headDim, keyHeads, valueHeads, keyDim, valueDim];
  const sound =
    positive.every((n) => Number.isInteger(n) && n > 0) &&
    heads % kvHeads === 0 &&
    headDim % panelRows === 0 &&
    rotaryDims >= 2 &&
    rotaryDims % 2 === 0 &&
    rotaryDims <= headDim &&
    valueHeads % keyHeads === 0 &&
    [...positive, c.convolution].every((n) => n <= 2 ** 20) &&
    c.convolution >= 2 &&
    (c.experts > 0
      ? c.expertsUsed >= 1 && c.expertsUsed <= c.experts && c.expertFeedForward > 0
      : c.architecture === "qwen35" && c.feedForward > 0);
  if (sound) return c;
  const facts = {
    ...{ layers: c.layers, heads, kvHeads, headDim, rotaryDims, keyHeads, valueHeads, keyDim, valueDim },
    ...{ convolution: c.convolution, experts: c.experts, expertsUsed: c.expertsUsed },
  };
  const expected = "consistent head, layer, state and expert counts";
  throw unexpected("file_malformed", s.where, expected, JSON.stringify(facts));
}
