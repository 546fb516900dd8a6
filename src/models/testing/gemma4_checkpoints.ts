/** Random Gemma 4 GGUF models rewritten as Hugging Face folders. */
import type { ModelShape, RandomModel } from "../../../scripts/random-model.ts";
import type { Entry } from "./checkpoints.ts";
import { tensorBytes } from "./variants.ts";

const slides = (i: number): boolean => (i + 1) % 6 !== 0;

export function gemma4Config(s: ModelShape): object {
  const own = s.gemma4!;
  const global = { head_dim: own.globalHeadDim, num_key_value_heads: own.globalKvHeads };
  const layers = Array.from({ length: s.layers }, (_, i) => i);
  return {
    ...{ model_type: "gemma4_text", hidden_activation: "gelu_pytorch_tanh", attention_bias: false },
    ...{ hidden_size: s.width, num_hidden_layers: s.layers, intermediate_size: s.feedForward },
    ...{ num_attention_heads: s.heads, num_key_value_heads: s.kvHeads, head_dim: s.headDim },
    ...{ max_position_embeddings: s.context, sliding_window: s.window, rms_norm_eps: 1e-6 },
    ...{ tie_word_embeddings: s.tied, final_logit_softcapping: 30 },
    ...{ attention_k_eq_v: own.keysAreValues, num_kv_shared_layers: own.sharedLayers },
    hidden_size_per_layer_input: own.perLayerWidth,
    layer_types: layers.map((i) => (slides(i) ? "sliding_attention" : "full_attention")),
    per_layer_config: Object.fromEntries(layers.filter((i) => !slides(i)).map((i) => [String(i), global])),
    rope_parameters: {
      full_attention: { rope_type: "proportional", rope_theta: s.ropeBase, partial_rotary_factor: 0.25 },
      sliding_attention: { rope_type: "default", rope_theta: 10000 },
    },
    enable_moe_block: s.experts !== undefined,
    ...(s.experts !== undefined && {
      ...{ num_experts: s.experts, top_k_experts: s.expertsUsed },
      moe_intermediate_size: s.expertFeedForward,
    }),
  };
}

const whole: Readonly<Record<string, string>> = {
  ...{ "token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight" },
  "per_layer_token_embd.weight": "embed_tokens_per_layer.weight",
  "per_layer_model_proj.weight": "per_layer_model_projection.weight",
  "per_layer_proj_norm.weight": "per_layer_projection_norm.weight",
};
const inLayer: Readonly<Record<string, string>> = {
  ...{ "attn_norm.weight": "input_layernorm.weight", "attn_output.weight": "self_attn.o_proj.weight" },
  ...{ "attn_q.weight": "self_attn.q_proj.weight", "attn_k.weight": "self_attn.k_proj.weight" },
  ...{ "attn_v.weight": "self_attn.v_proj.weight", "attn_q_norm.weight": "self_attn.q_norm.weight" },
  "attn_k_norm.weight": "self_attn.k_norm.weight",
  "post_attention_norm.weight": "post_attention_layernorm.weight",
  ...{ "ffn_norm.weight": "pre_feedforward_layernorm.weight", "ffn_gate.weight": "mlp.gate_proj.weight" },
  ...{ "ffn_up.weight": "mlp.up_proj.weight", "ffn_down.weight": "mlp.down_proj.weight" },
  "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
  "post_ffw_norm_1.weight": "post_feedforward_layernorm_1.weight",
  "pre_ffw_norm_2.weight": "pre_feedforward_layernorm_2.weight",
  "post_ffw_norm_2.weight": "post_feedforward_layernorm_2.weight",
  ...{ "layer_output_scale.weight": "layer_scalar", "inp_gate.weight": "per_layer_input_gate.weight" },
  ...{ "proj.weight": "per_layer_projection.weight", "post_norm.weight": "post_per_layer_input_norm.weight" },
  ...{ "ffn_gate_inp.weight": "router.proj.weight", "ffn_gate_inp.scale": "router.scale" },
  ...{ "ffn_down_exps.scale": "router.per_expert_scale", "ffn_down_exps.weight": "experts.down_proj" },
  "ffn_gate_up_exps.weight": "experts.gate_up_proj",
};

/** A GGUF tensor's name in a checkpoint; undefined where the checkpoint has no such tensor. */
export function gemma4TheirName(name: string, prefix = "model."): string | undefined {
  if (whole[name]) return prefix + whole[name];
  const [, layer, part] = /^blk\.(\d+)\.(.+)$/.exec(name) ?? [];
  const theirs = inLayer[part ?? ""];
  return theirs && `${prefix}layers.${layer}.${theirs}`;
}

/** The model's f32 and bf16 tensors as they are; the rotary divisors stand in the configuration. */
export function gemma4Entries(model: RandomModel, prefix = "model."): Entry[] {
  return model.tensors
    .filter(({ name }) => name !== "rope_freqs.weight")
    .map((tensor) => {
      const name = gemma4TheirName(tensor.name, prefix);
      if (!name || (tensor.dtype !== "f32" && tensor.dtype !== "bf16"))
        throw new Error(`no checkpoint holds ${tensor.name} as ${tensor.dtype}`);
      const dtype = tensor.dtype === "f32" ? "F32" : "BF16";
      return { name, dtype, shape: tensor.shape, data: tensorBytes(tensor) };
    });
}
