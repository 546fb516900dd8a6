/** Random Qwen3.5 GGUF models rewritten as Hugging Face folders: names, norms less one, value heads grouped. */
import type { ModelShape, RandomModel } from "../../../scripts/random-model.ts";
import type { TensorToWrite } from "../files/gguf_writer.ts";
import type { Entry } from "./checkpoints.ts";
import { dequantised } from "./variants.ts";

export function qwen35Config(s: ModelShape): object {
  const own = s.qwen35!;
  return {
    ...{ model_type: s.experts ? "qwen3_5_moe_text" : "qwen3_5_text", hidden_act: "silu" },
    ...{ hidden_size: s.width, num_hidden_layers: s.layers, intermediate_size: s.feedForward || undefined },
    ...{ num_attention_heads: s.heads, num_key_value_heads: s.kvHeads, head_dim: s.headDim },
    ...{ max_position_embeddings: s.context, rms_norm_eps: 1e-6, tie_word_embeddings: s.tied },
    ...{ linear_num_key_heads: own.keyHeads, linear_num_value_heads: own.valueHeads },
    ...{ linear_key_head_dim: own.stateDim, linear_value_head_dim: own.stateDim, linear_conv_kernel_dim: 4 },
    layer_types: Array.from({ length: s.layers }, (_, i) =>
      (i + 1) % 4 === 0 ? "full_attention" : "linear_attention",
    ),
    rope_parameters: {
      ...{ rope_theta: s.ropeBase, rope_type: "default" },
      partial_rotary_factor: own.rotaryDims / s.headDim,
    },
    ...(s.experts && {
      ...{ num_experts: s.experts, num_experts_per_tok: s.expertsUsed },
      ...{ moe_intermediate_size: s.expertFeedForward, shared_expert_intermediate_size: own.shared },
    }),
  };
}

const parts: Readonly<Record<string, string>> = {
  ...{ "attn_norm.weight": "input_layernorm.weight", "attn_output.weight": "self_attn.o_proj.weight" },
  ...{ "attn_q.weight": "self_attn.q_proj.weight", "attn_k.weight": "self_attn.k_proj.weight" },
  ...{ "attn_v.weight": "self_attn.v_proj.weight", "attn_q_norm.weight": "self_attn.q_norm.weight" },
  ...{ "attn_k_norm.weight": "self_attn.k_norm.weight" },
  "post_attention_norm.weight": "post_attention_layernorm.weight",
  ...{
    "attn_qkv.weight": "linear_attn.in_proj_qkv.weight",
    "attn_gate.weight": "linear_attn.in_proj_z.weight",
  },
  ...{
    "ssm_alpha.weight": "linear_attn.in_proj_a.weight",
    "ssm_beta.weight": "linear_attn.in_proj_b.weight",
  },
  ...{ "ssm_conv1d.weight": "linear_attn.conv1d.weight", "ssm_dt.bias": "linear_attn.dt_bias" },
  ...{ ssm_a: "linear_attn.A_log", "ssm_norm.weight": "linear_attn.norm.weight" },
  ...{ "ssm_out.weight": "linear_attn.out_proj.weight", "ffn_gate.weight": "mlp.gate_proj.weight" },
  ...{ "ffn_up.weight": "mlp.up_proj.weight", "ffn_down.weight": "mlp.down_proj.weight" },
  ...{
    "ffn_gate_inp.weight": "mlp.gate.weight",
    "ffn_gate_inp_shexp.weight": "mlp.shared_expert_gate.weight",
  },
  "ffn_gate_shexp.weight": "mlp.shared_expert.gate_proj.weight",
  "ffn_up_shexp.weight": "mlp.shared_expert.up_proj.weight",
  "ffn_down_shexp.weight": "mlp.shared_expert.down_proj.weight",
};

/** Entries in f32; every expert apart, or stacked where gate and up are one tensor. */
export function qwen35Entries(s: ModelShape, model: RandomModel, prefix = "model."): Entry[] {
  const merged = model.tensors.some(({ name }) => name.includes("ffn_gate_up_exps"));
  return model.tensors.flatMap((tensor) => entriesOf(s, tensor, prefix, merged));
}

function entriesOf(s: ModelShape, tensor: TensorToWrite, prefix: string, merged: boolean): Entry[] {
  const { name, shape } = tensor;
  const values = dequantised(tensor);
  const f32 = (theirs: string, data: Float32Array, dims = shape): Entry => ({
    ...{ name: theirs, dtype: "F32", shape: dims, data },
  });
  if (name === "token_embd.weight") return [f32(`${prefix}embed_tokens.weight`, values)];
  if (name === "output.weight") return [f32("lm_head.weight", values)];
  const lessOne = values.map((x) => x - 1);
  if (name === "output_norm.weight") return [f32(`${prefix}norm.weight`, lessOne)];
  const [, layer, part] = /^blk\.(\d+)\.(.+)$/.exec(name) as unknown as [string, string, string];
  const stem = `${prefix}layers.${layer}.mlp.experts.`;
  if (part === "ffn_gate_up_exps.weight") return [f32(`${stem}gate_up_proj`, values)];
  if (part === "ffn_down_exps.weight" && merged) return [f32(`${stem}down_proj`, values)];
  const experts = /^ffn_(gate|up|down)_exps\.weight$/.exec(part);
  if (experts) {
    const [count, rows, columns] = shape as [number, number, number];
    return Array.from({ length: count }, (_, e) =>
      f32(
        `${stem}${e}.${experts[1]}_proj.weight`,
        values.slice(e * rows * columns, (e + 1) * rows * columns),
        [rows, columns],
      ),
    );
  }
  const data = /^(attn|post_attention|attn_q|attn_k)_norm\.weight$/.test(part) ? lessOne : values;
  const dims = part === "ssm_conv1d.weight" ? [shape[0]!, 1, shape[1]!] : shape;
  return [f32(`${prefix}layers.${layer}.${parts[part]}`, grouped(s, part, data), dims)];
}

/** Value heads from GGUF's order, where head j * keyHeads + k reads key head k, to the order where k's heads stand together. */
function grouped(s: ModelShape, part: string, values: Float32Array): Float32Array {
  const { keyHeads, valueHeads, stateDim } = s.qwen35!;
  const perKey = valueHeads / keyHeads;
  const tiledOf = (head: number): number => (head % perKey) * keyHeads + Math.floor(head / perKey);
  /** Blocks of `size` values from `start` on, one for each value head, `count` times. */
  const reorder = (size: number, start = 0, count = 1): Float32Array => {
    const out = values.slice();
    for (let c = 0; c < count; c++) {
      const at = start + c * valueHeads * size;
      for (let h = 0; h < valueHeads; h++) {
        const from = at + tiledOf(h) * size;
        out.set(values.subarray(from, from + size), at + h * size);
      }
    }
    return out;
  };
  const keys = 2 * keyHeads * stateDim;
  switch (part) {
    case "ssm_a":
      return reorder(1).map((x) => Math.log(-x));
    case "ssm_dt.bias":
      return reorder(1);
    case "ssm_alpha.weight":
    case "ssm_beta.weight":
      return reorder(s.width);
    case "attn_gate.weight":
      return reorder(stateDim * s.width);
    case "attn_qkv.weight":
      return reorder(stateDim * s.width, keys * s.width);
    case "ssm_conv1d.weight":
      return reorder(stateDim * 4, keys * 4);
    case "ssm_out.weight":
      return reorder(stateDim, 0, s.width);
    default:
      return values;
  }
}
