/** Tensors and hyper-parameters of random Qwen3.5 models, dense and sparse. */
import type { DType } from "../src/core/dtype.ts";
import type { MetadataValue } from "../src/models/files/gguf_writer.ts";
import type { ModelShape, Planned } from "./random-model.ts";

type Own = NonNullable<ModelShape["qwen35"]>;

/** Taps of the convolution, and which layers have full attention. */
const [taps, interval] = [4, 4];

const real = {
  ...{ headDim: 256, vocabulary: 248_320, context: 262_144, ropeBase: 1e7, tied: false },
} as const;
const tiny = {
  ...{ width: 128, layers: 4, heads: 4, kvHeads: 2, headDim: 64, vocabulary: 320, context: 2048 },
  ...{ ropeBase: 10000, tied: false },
  qwen35: { keyHeads: 2, valueHeads: 4, stateDim: 32, rotaryDims: 16, shared: 0 },
} as const;

export const qwen35Shapes: Readonly<Record<string, ModelShape>> = {
  "qwen35-9b": {
    ...{ ...real, architecture: "qwen35", width: 4096, layers: 32, feedForward: 12_288 },
    ...{ heads: 16, kvHeads: 4 },
    qwen35: { keyHeads: 16, valueHeads: 32, stateDim: 128, rotaryDims: 64, shared: 0 },
  },
  "qwen35-35b-a3b": {
    ...{ ...real, architecture: "qwen35moe", width: 2048, layers: 40, feedForward: 0 },
    ...{ heads: 16, kvHeads: 2, experts: 256, expertsUsed: 8, expertFeedForward: 512 },
    qwen35: { keyHeads: 16, valueHeads: 32, stateDim: 128, rotaryDims: 64, shared: 512 },
  },
  "tiny-qwen35": { ...tiny, architecture: "qwen35", feedForward: 256 },
  "tiny-qwen35moe": {
    ...{ ...tiny, architecture: "qwen35moe", feedForward: 0, experts: 8, expertsUsed: 2 },
    ...{ expertFeedForward: 64, qwen35: { ...tiny.qwen35, shared: 64 } },
  },
};

/** `expertDtype` is that of the routed experts; the shared one is as the dense matrices are. */
export function qwen35Tensors(s: ModelShape, own: Own, dtype: DType, expertDtype: DType): Planned[] {
  const list: Planned[] = [];
  const matrix = (name: string, ...dims: number[]) => list.push({ name: `${name}.weight`, dtype, dims });
  const vector = (name: string, ...dims: number[]) => list.push({ name, dtype: "f32", dims });
  const experts = (name: string, ...dims: number[]) =>
    list.push({ name: `${name}.weight`, dtype: expertDtype, dims });
  const [q, kv] = [s.heads * s.headDim, s.kvHeads * s.headDim];
  const values = own.valueHeads * own.stateDim;
  const channels = 2 * own.keyHeads * own.stateDim + values;
  matrix("token_embd", s.vocabulary, s.width);
  if (!s.tied) matrix("output", s.vocabulary, s.width);
  vector("output_norm.weight", s.width);
  const drafts = own.draftBlocks ?? 0;
  for (let i = 0; i < s.layers + drafts; i++) {
    const at = (part: string): string => `blk.${i}.${part}`;
    vector(at("attn_norm.weight"), s.width);
    vector(at("post_attention_norm.weight"), s.width);
    if (i >= s.layers || (i + 1) % interval === 0) {
      matrix(at("attn_q"), 2 * q, s.width);
      matrix(at("attn_k"), kv, s.width);
      matrix(at("attn_v"), kv, s.width);
      matrix(at("attn_output"), s.width, q);
      vector(at("attn_q_norm.weight"), s.headDim);
      vector(at("attn_k_norm.weight"), s.headDim);
    } else {
      matrix(at("attn_qkv"), channels, s.width);
      matrix(at("attn_gate"), values, s.width);
      vector(at("ssm_conv1d.weight"), channels, taps);
      vector(at("ssm_dt.bias"), own.valueHeads);
      list.push({ name: at("ssm_a"), dtype: "f32", dims: [own.valueHeads], kind: "decay" });
      matrix(at("ssm_alpha"), own.valueHeads, s.width);
      matrix(at("ssm_beta"), own.valueHeads, s.width);
      vector(at("ssm_norm.weight"), own.stateDim);
      matrix(at("ssm_out"), s.width, values);
    }
    if (s.experts === undefined) {
      matrix(at("ffn_gate"), s.feedForward, s.width);
      matrix(at("ffn_up"), s.feedForward, s.width);
      matrix(at("ffn_down"), s.width, s.feedForward);
    } else {
      const f = s.expertFeedForward ?? s.feedForward;
      vector(at("ffn_gate_inp.weight"), s.experts, s.width);
      experts(at("ffn_gate_exps"), s.experts, f, s.width);
      experts(at("ffn_up_exps"), s.experts, f, s.width);
      experts(at("ffn_down_exps"), s.experts, s.width, f);
      vector(at("ffn_gate_inp_shexp.weight"), s.width);
      matrix(at("ffn_gate_shexp"), own.shared, s.width);
      matrix(at("ffn_up_shexp"), own.shared, s.width);
      matrix(at("ffn_down_shexp"), s.width, own.shared);
    }
    if (i < s.layers) continue;
    matrix(at("nextn.eh_proj"), s.width, 2 * s.width);
    for (const part of ["enorm", "hnorm", "shared_head_norm"]) vector(at(`nextn.${part}.weight`), s.width);
  }
  return list;
}

/** Keys beside those that all families have. */
export function qwen35Parameters(s: ModelShape, own: Own): Record<string, MetadataValue> {
  const key = (name: string): string => `${s.architecture}.${name}`;
  const u32 = (value: number): MetadataValue => ({ type: "u32", value });
  const pairs = own.rotaryDims / 2;
  const third = Math.ceil(pairs / 3);
  const drafts = own.draftBlocks ?? 0;
  return {
    [key("attention.layer_norm_rms_epsilon")]: { type: "f32", value: 1e-6 },
    [key("block_count")]: u32(s.layers + drafts),
    ...(drafts > 0 && { [key("nextn_predict_layers")]: u32(drafts) }),
    [key("rope.dimension_count")]: u32(own.rotaryDims),
    [key("rope.dimension_sections")]: {
      type: "array",
      elementType: "i32",
      value: [third, third, pairs - 2 * third, 0],
    },
    [key("full_attention_interval")]: u32(interval),
    [key("ssm.conv_kernel")]: u32(taps),
    [key("ssm.state_size")]: u32(own.stateDim),
    [key("ssm.group_count")]: u32(own.keyHeads),
    [key("ssm.time_step_rank")]: u32(own.valueHeads),
    [key("ssm.inner_size")]: u32(own.valueHeads * own.stateDim),
    ...(s.experts !== undefined && { [key("expert_shared_feed_forward_length")]: u32(own.shared) }),
  };
}
