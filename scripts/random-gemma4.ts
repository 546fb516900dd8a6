/** Tensors and hyper-parameters of random Gemma 4 text models. */
import type { DType } from "../src/core/dtype.ts";
import type { MetadataValue } from "../src/models/files/gguf_writer.ts";
import type { ModelShape, Planned } from "./random-model.ts";

type Own = NonNullable<ModelShape["gemma4"]>;

/** Every so manieth layer is global. */
const interval = 6;

const real = {
  ...{ headDim: 256, vocabulary: 262_144, ropeBase: 1e6, tied: true },
} as const;
const tiny = {
  ...{ width: 128, feedForward: 256, heads: 4, kvHeads: 2, headDim: 32 },
  ...{ vocabulary: 512, context: 2048, ropeBase: 1e6, tied: true, window: 64 },
} as const;

export const gemma4Shapes: Readonly<Record<string, ModelShape>> = {
  "gemma4-e4b": {
    architecture: "gemma4",
    ...{ ...real, width: 2560, layers: 42, feedForward: 10_240, heads: 8, kvHeads: 2 },
    ...{ window: 512, context: 131_072 },
    gemma4: {
      ...{ globalKvHeads: 2, globalHeadDim: 512, sharedLayers: 18, perLayerWidth: 256 },
      keysAreValues: false,
    },
  },
  "gemma4-26b-a4b": {
    architecture: "gemma4",
    ...{ ...real, width: 2816, layers: 30, feedForward: 2112, heads: 16, kvHeads: 8 },
    ...{ window: 1024, context: 262_144, experts: 128, expertsUsed: 8, expertFeedForward: 704 },
    gemma4: {
      ...{ globalKvHeads: 2, globalHeadDim: 512, sharedLayers: 0, perLayerWidth: 0 },
      keysAreValues: true,
    },
  },
  "tiny-gemma4-e": {
    architecture: "gemma4",
    ...{ ...tiny, layers: 12 },
    gemma4: {
      ...{ globalKvHeads: 2, globalHeadDim: 64, sharedLayers: 6, perLayerWidth: 32 },
      keysAreValues: false,
    },
  },
  "tiny-gemma4-31b": {
    architecture: "gemma4",
    ...{ ...tiny, layers: 6 },
    gemma4: {
      ...{ globalKvHeads: 1, globalHeadDim: 64, sharedLayers: 0, perLayerWidth: 0 },
      keysAreValues: true,
    },
  },
  "tiny-gemma4-moe": {
    architecture: "gemma4",
    ...{ ...tiny, layers: 6, experts: 8, expertsUsed: 2, expertFeedForward: 64 },
    gemma4: {
      ...{ globalKvHeads: 1, globalHeadDim: 64, sharedLayers: 0, perLayerWidth: 0 },
      keysAreValues: true,
    },
  },
};

const slides = (i: number): boolean => i % interval < interval - 1;

export function gemma4Tensors(s: ModelShape, own: Own, dtype: DType, expertDtype: DType): Planned[] {
  const list: Planned[] = [];
  const matrix = (name: string, ...dims: number[]) => list.push({ name: `${name}.weight`, dtype, dims });
  const norm = (name: string, width = s.width) =>
    list.push({ name: `${name}.weight`, dtype: "f32", dims: [width], kind: "ones" });
  const scale = (name: string, width: number) =>
    list.push({ name, dtype: "f32", dims: [width], kind: "ones" });
  const all = s.layers * own.perLayerWidth;
  matrix("token_embd", s.vocabulary, s.width);
  norm("output_norm");
  list.push({ name: "rope_freqs.weight", dtype: "f32", dims: [own.globalHeadDim / 2], kind: "rope" });
  if (all > 0) {
    matrix("per_layer_token_embd", s.vocabulary, all);
    list.push({ name: "per_layer_model_proj.weight", dtype: "bf16", dims: [all, s.width] });
    norm("per_layer_proj_norm", own.perLayerWidth);
  }
  for (let i = 0; i < s.layers; i++) {
    const at = (part: string): string => `blk.${i}.${part}`;
    const e = slides(i) ? s.headDim : own.globalHeadDim;
    const kv = (slides(i) ? s.kvHeads : own.globalKvHeads) * e;
    norm(at("attn_norm"));
    matrix(at("attn_q"), s.heads * e, s.width);
    matrix(at("attn_k"), kv, s.width);
    if (slides(i) || !own.keysAreValues) matrix(at("attn_v"), kv, s.width);
    norm(at("attn_q_norm"), e);
    norm(at("attn_k_norm"), e);
    matrix(at("attn_output"), s.width, s.heads * e);
    norm(at("post_attention_norm"));
    norm(at("ffn_norm"));
    matrix(at("ffn_gate"), s.feedForward, s.width);
    matrix(at("ffn_up"), s.feedForward, s.width);
    matrix(at("ffn_down"), s.width, s.feedForward);
    norm(at("post_ffw_norm"));
    scale(at("layer_output_scale.weight"), 1);
    if (own.perLayerWidth > 0) {
      matrix(at("inp_gate"), own.perLayerWidth, s.width);
      matrix(at("proj"), s.width, own.perLayerWidth);
      norm(at("post_norm"));
    }
    if (s.experts === undefined) continue;
    const f = s.expertFeedForward ?? s.feedForward;
    for (const part of ["post_ffw_norm_1", "pre_ffw_norm_2", "post_ffw_norm_2"]) norm(at(part));
    list.push({ name: at("ffn_gate_inp.weight"), dtype: "f32", dims: [s.experts, s.width] });
    scale(at("ffn_gate_inp.scale"), s.width);
    scale(at("ffn_down_exps.scale"), s.experts);
    list.push({ name: at("ffn_gate_up_exps.weight"), dtype: expertDtype, dims: [s.experts, 2 * f, s.width] });
    list.push({ name: at("ffn_down_exps.weight"), dtype: expertDtype, dims: [s.experts, s.width, f] });
  }
  return list;
}

/** Keys beside those that all families have. */
export function gemma4Parameters(s: ModelShape, own: Own): Record<string, MetadataValue> {
  const key = (name: string): string => `gemma4.${name}`;
  const u32 = (value: number): MetadataValue => ({ type: "u32", value });
  const layers = Array.from({ length: s.layers }, (_, i) => i);
  return {
    [key("attention.layer_norm_rms_epsilon")]: { type: "f32", value: 1e-6 },
    [key("attention.head_count_kv")]: {
      type: "array",
      elementType: "i32",
      value: layers.map((i) => (slides(i) ? s.kvHeads : own.globalKvHeads)),
    },
    [key("attention.key_length")]: u32(own.globalHeadDim),
    [key("attention.value_length")]: u32(own.globalHeadDim),
    [key("attention.key_length_swa")]: u32(s.headDim),
    [key("attention.value_length_swa")]: u32(s.headDim),
    [key("attention.sliding_window_pattern")]: {
      type: "array",
      elementType: "bool",
      value: layers.map(slides),
    },
    [key("attention.shared_kv_layers")]: u32(own.sharedLayers),
    [key("rope.dimension_count")]: u32(own.globalHeadDim),
    [key("rope.dimension_count_swa")]: u32(s.headDim),
    [key("rope.freq_base_swa")]: { type: "f32", value: 10000 },
    [key("embedding_length_per_layer_input")]: u32(own.perLayerWidth),
    [key("final_logit_softcapping")]: { type: "f32", value: 30 },
  };
}
