/** A trained GPT-OSS as GGUF: experts MXFP4, other matrices Q8_0, the rest f32, with tokenizer and Harmony's marks. */
import { unexpected } from "../../core/error.ts";
import { type MetadataValue, type TensorToWrite, writeGguf } from "../../models/files/gguf_writer.ts";
import type { ParameterSpec } from "../model.ts";
import type { GptOssTrainingConfig } from "../models/gpt_oss.ts";
import type { Parameters } from "../parameters.ts";
import { part } from "../parameters.ts";
import { formatOf } from "./model.ts";
import { quantised } from "./quantise.ts";
import { type TrainedTokenizer, vocabularyOf } from "./tokenizer.ts";

/** Parts of names in checkpoints, and what GGUF calls them. */
const parts: readonly (readonly [RegExp, string])[] = [
  [/^model\.layers\.(\d+)\./, "blk.$1."],
  [/^model\.embed_tokens\./, "token_embd."],
  [/^model\.norm\./, "output_norm."],
  [/^lm_head\./, "output."],
  [/input_layernorm\./, "attn_norm."],
  [/post_attention_layernorm\./, "post_attention_norm."],
  [/self_attn\.([qkv])_proj\./, "attn_$1."],
  [/self_attn\.o_proj\./, "attn_output."],
  [/self_attn\.sinks$/, "attn_sinks.weight"],
  [/mlp\.router\./, "ffn_gate_inp."],
  [/mlp\.experts\.(gate|up|down)_proj_bias$/, "ffn_$1_exps.bias"],
  [/mlp\.experts\.(gate|up|down)_proj$/, "ffn_$1_exps.weight"],
];

/** As GGUF names a parameter of models/gpt_oss.ts. */
export function ggufName(name: string): string {
  const made = parts.reduce((text, [from, to]) => text.replace(from, to), name);
  if (/model\.|self_attn|mlp\./.test(made))
    throw unexpected("internal", "gguf export", "a parameter of a GPT-OSS", name);
  return made;
}

/** `value` gives a parameter's f32 values. */
export function writeModel(
  path: string,
  config: GptOssTrainingConfig,
  tokenizer: TrainedTokenizer,
  specs: readonly ParameterSpec[],
  value: (spec: ParameterSpec) => Float32Array,
): void {
  const tensors = specs.map((spec): TensorToWrite => {
    const format = formatOf(spec);
    const bytes = (): Uint8Array => {
      const values = value(spec);
      if (format) return quantised(values, format);
      return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    };
    return { name: ggufName(spec.name), dtype: format ?? "f32", shape: spec.shape, chunks: () => [bytes()] };
  });
  writeGguf(path, { ...hyperParameters(config), ...vocabularyOf(tokenizer) }, tensors);
}

/** Values of a trainer's parameters, as it keeps them. */
export const valuesOf =
  ({ device, places, values }: Parameters) =>
  ({ name }: ParameterSpec): Float32Array => {
    const place = places.find(({ spec }) => spec.name === name)!;
    return device.downloadF32(part(values, place, [place.count]));
  };

const u32 = (value: number): MetadataValue => ({ type: "u32", value });
const f32 = (value: number): MetadataValue => ({ type: "f32", value });
const text = (value: string): MetadataValue => ({ type: "string", value });

/** ggml's number for files whose matrices are mostly MXFP4. */
const mostlyMxfp4 = 38;

function hyperParameters(c: GptOssTrainingConfig): Record<string, MetadataValue> {
  const scaling = c.ropeScaling;
  if (scaling.type !== "yarn")
    throw unexpected("internal", "gguf export", "rotary positions under YaRN", scaling.type);
  const own: Record<string, MetadataValue> = {
    block_count: u32(c.layers),
    context_length: u32(c.contextLength),
    embedding_length: u32(c.width),
    feed_forward_length: u32(c.expertFeedForward),
    "attention.head_count": u32(c.heads),
    "attention.head_count_kv": u32(c.kvHeads),
    "attention.key_length": u32(c.headDim),
    "attention.value_length": u32(c.headDim),
    "rope.freq_base": f32(c.ropeBase),
    "attention.layer_norm_rms_epsilon": f32(1e-5),
    expert_count: u32(c.experts),
    expert_used_count: u32(c.expertsUsed),
    "attention.sliding_window": u32(c.window),
    expert_feed_forward_length: u32(c.expertFeedForward),
    "rope.dimension_count": u32(c.headDim),
    "rope.scaling.type": text("yarn"),
    "rope.scaling.factor": f32(scaling.factor),
    "rope.scaling.original_context_length": u32(scaling.originalContext),
  };
  return {
    "general.architecture": text("gpt-oss"),
    "general.name": text("docs-oss-13m"),
    "general.license": text("cc0-1.0 / apache-2.0 corpora"),
    "general.file_type": u32(mostlyMxfp4),
    ...Object.fromEntries(Object.entries(own).map(([key, value]) => [`gpt-oss.${key}`, value])),
  };
}
