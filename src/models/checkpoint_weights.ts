import { unexpected } from "../core/error.ts";
import { type Converted, ConvertedTensors } from "./converted_tensor.ts";
import type { TensorRecord } from "./files/tensors.ts";
import { stored } from "./gguf_weights.ts";
import { gptOssExperts } from "./gpt_oss_checkpoint.ts";
import type { MappedFiles } from "./mapped_files.ts";
import { qwen35Experts } from "./qwen35_checkpoint.ts";
import type { WeightSource } from "./weights.ts";

export type Checkpoint = {
  readonly records: ReadonlyMap<string, TensorRecord>;
  read(record: TensorRecord): Uint8Array;
  /** Name of a tensor of layer `layer` in this checkpoint. */
  layerName(layer: number, part: string): string;
};

/** GGUF layer tensors and their checkpoint names; the norms around attention and MLP differ by family. */
const layerNames: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  attn_q_norm: "self_attn.q_norm",
  attn_k_norm: "self_attn.k_norm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};
const normNames: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  gemma3: {
    post_attention_norm: "post_attention_layernorm",
    ffn_norm: "pre_feedforward_layernorm",
    post_ffw_norm: "post_feedforward_layernorm",
  },
  gemma4: {
    post_attention_norm: "post_attention_layernorm",
    ffn_norm: "pre_feedforward_layernorm",
    post_ffw_norm: "post_feedforward_layernorm",
    post_ffw_norm_1: "post_feedforward_layernorm_1",
    pre_ffw_norm_2: "pre_feedforward_layernorm_2",
    post_ffw_norm_2: "post_feedforward_layernorm_2",
    ffn_gate_inp: "router.proj",
    inp_gate: "per_layer_input_gate",
    proj: "per_layer_projection",
    post_norm: "post_per_layer_input_norm",
  },
  qwen35: {
    post_attention_norm: "post_attention_layernorm",
    attn_qkv: "linear_attn.in_proj_qkv",
    attn_gate: "linear_attn.in_proj_z",
    ssm_alpha: "linear_attn.in_proj_a",
    ssm_beta: "linear_attn.in_proj_b",
    ssm_conv1d: "linear_attn.conv1d",
    ssm_norm: "linear_attn.norm",
    ssm_out: "linear_attn.out_proj",
    ffn_gate_inp: "mlp.gate",
    ffn_gate_inp_shexp: "mlp.shared_expert_gate",
    ffn_gate_shexp: "mlp.shared_expert.gate_proj",
    ffn_up_shexp: "mlp.shared_expert.up_proj",
    ffn_down_shexp: "mlp.shared_expert.down_proj",
  },
  "gpt-oss": {
    post_attention_norm: "post_attention_layernorm",
    attn_sinks: "self_attn.sinks",
    ffn_gate_inp: "mlp.router",
  },
};

/** Bare parameters and tensors outside the layers, by GGUF name. */
const otherNames: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  gemma4: {
    "per_layer_token_embd.weight": "embed_tokens_per_layer.weight",
    "per_layer_model_proj.weight": "per_layer_model_projection.weight",
    "per_layer_proj_norm.weight": "per_layer_projection_norm.weight",
    "layer_output_scale.weight": "layer_scalar",
    "ffn_gate_inp.scale": "router.scale",
    "ffn_down_exps.scale": "router.per_expert_scale",
    "ffn_gate_up_exps.weight": "experts.gate_up_proj",
    "ffn_down_exps.weight": "experts.down_proj",
  },
  qwen35: {
    ssm_a: "linear_attn.A_log",
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ffn_gate_up_exps.weight": "mlp.experts.gate_up_proj",
    "ffn_down_exps.weight": "mlp.experts.down_proj",
  },
};

const conversions: Readonly<Record<string, (checkpoint: Checkpoint, name: string) => Converted | undefined>> =
  { "gpt-oss": gptOssExperts, qwen35: qwen35Experts };

/** Read through a conversion, or (in old checkpoints) derived from the configuration. */
const elsewhere = /\.mlp\.experts\.|\.rotary_emb\.inv_freq$/;

/** The tensors of a Hugging Face checkpoint under their GGUF names. */
export function checkpointWeights(
  architecture: string,
  records: ReadonlyMap<string, TensorRecord>,
  files: MappedFiles,
): WeightSource {
  const prefix = [...records.keys()]
    .find((n) => n.endsWith("embed_tokens.weight"))
    ?.slice(0, -"embed_tokens.weight".length);
  if (prefix === undefined)
    throw unexpected("file_malformed", "checkpoint", "a tensor ...embed_tokens.weight", "none");
  const checkpoint: Checkpoint = {
    records,
    read: (r) => files.read(r.file, r.offset, r.bytes),
    layerName: (layer, part) => `${prefix}layers.${layer}.${part}`,
  };
  const convert = conversions[architecture];
  const converted = (name: string): Converted | undefined => convert?.(checkpoint, name);
  let parameters = 0;
  for (const t of records.values()) parameters += t.shape.reduce((a, b) => a * b, 1);
  // Of a model with other towers the head may stand beside or inside the text model.
  const head = [...records.keys()].find((n) => n.endsWith("lm_head.weight")) ?? "lm_head.weight";
  const theirName = (name: string): string =>
    name === "output.weight" ? head : checkpointName(architecture, prefix, name);
  const find = (name: string): TensorRecord | undefined => records.get(theirName(name));
  const made = new ConvertedTensors(files.mapped);
  const used = new Set<string>();
  return {
    parameters,
    has: (name) => find(name) !== undefined || converted(name) !== undefined,
    get(name) {
      const record = find(name);
      if (record) {
        used.add(record.name);
        return stored(record, files, made);
      }
      const ours = converted(name);
      if (ours) return made.tensor(name, ours);
      throw unexpected("file_malformed", "checkpoint", `a tensor ${theirName(name)}`, "none of that name");
    },
    unused: () =>
      [...records.keys()].filter(
        (n) => n.startsWith(`${prefix}layers.`) && !used.has(n) && !elsewhere.test(n),
      ),
    close() {
      made.close();
      files.close();
    },
  };
}

function checkpointName(architecture: string, prefix: string, name: string): string {
  if (name === "token_embd.weight") return `${prefix}embed_tokens.weight`;
  if (name === "output_norm.weight") return `${prefix}norm.weight`;
  const others = otherNames[architecture] ?? {};
  if (others[name]) return prefix + others[name];
  const inLayer = /^blk\.(\d+)\.(.+)$/.exec(name);
  if (inLayer && others[inLayer[2]!]) return `${prefix}layers.${inLayer[1]}.${others[inLayer[2]!]}`;
  const match = /^blk\.(\d+)\.([a-z_0-9]+)\.(weight|bias)$/.exec(name);
  if (!match) return name;
  const [, layer, part, kind] = match as unknown as [string, string, string, string];
  const norms = normNames[architecture] ?? { ffn_norm: "post_attention_layernorm" };
  const theirs = norms[part] ?? layerNames[part];
  if (!theirs) return name;
  // Sinks are a bare parameter.
  return `${prefix}layers.${layer}.${theirs}${part === "attn_sinks" ? "" : `.${kind}`}`;
}
