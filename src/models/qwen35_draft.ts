/** The blocks behind the trunk that predict the token after the next (MTP): recognised, not loaded. */
import type { Qwen35Config } from "./qwen35_config.ts";
import type { Weights } from "./weights.ts";

const blockTensors = [
  ...["attn_norm", "post_attention_norm", "attn_q", "attn_k", "attn_v", "attn_q_norm", "attn_k_norm"],
  ...["attn_output", "ffn_gate", "ffn_up", "ffn_down", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps"],
  ...["ffn_gate_up_exps", "ffn_down_exps", "ffn_gate_inp_shexp", "ffn_gate_shexp", "ffn_up_shexp"],
  ...["ffn_down_shexp", "nextn.eh_proj", "nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm"],
  ...["nextn.embed_tokens", "nextn.shared_head_head"],
];

/** Tells that the draft blocks' tensors are known to play no part; what a user should know of it, in sentences. */
export function passDraftBlocks(c: Qwen35Config, w: Weights): readonly string[] {
  const first = c.fromCheckpoint ? "mtp.fc.weight" : `blk.${c.layers}.nextn.eh_proj.weight`;
  if (c.draftBlocks === 0 || !w.has(first)) return [];
  for (let i = c.layers; i < c.layers + c.draftBlocks; i++) {
    for (const part of blockTensors) w.pass(`blk.${i}.${part}.weight`);
  }
  const blocks = c.draftBlocks === 1 ? "The block" : `The ${c.draftBlocks} blocks`;
  const tensors = c.fromCheckpoint ? "mtp.*" : `blk.${c.layers}.*`;
  return [`${blocks} for drafting ahead (MTP, ${tensors}) of this model is known and not loaded.`];
}
