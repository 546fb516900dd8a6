/** Adapters of random models, for tests of what computes them. */
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { RandomModel } from "../../../scripts/random-model.ts";
import { type Entry, writeCheckpoint } from "./checkpoints.ts";

const modules: Readonly<Record<string, string>> = {
  ...{ attn_q: "self_attn.q_proj", attn_v: "self_attn.v_proj", attn_output: "self_attn.o_proj" },
  ffn_down: "mlp.down_proj",
};

/** Writes an adapter of some matrices of the model, each layer's own, into a folder as PEFT has it. */
export function writeAdapter(
  path: string,
  model: RandomModel,
  parts: readonly string[],
  rank: number,
): string {
  const entries = model.tensors.flatMap(({ name, shape: [outputs = 0, inputs = 0] }, salt): Entry[] => {
    const [, layer, part = ""] = /^blk\.(\d+)\.(\w+)\.weight$/.exec(name) ?? [];
    if (!parts.includes(part)) return [];
    const entry = (letter: string, shape: readonly [number, number]): Entry => ({
      name: `base_model.model.model.layers.${layer}.${modules[part]}.lora_${letter}.weight`,
      ...{ dtype: "F32", shape },
      data: Float32Array.from(
        { length: shape[0] * shape[1] },
        (_, i) => 0.1 * Math.sin(12.9 * (i + 1) + salt),
      ),
    });
    return [entry("A", [rank, inputs]), entry("B", [outputs, rank])];
  });
  writeCheckpoint(path, {}, entries);
  renameSync(join(path, "model.safetensors"), join(path, "adapter_model.safetensors"));
  writeFileSync(join(path, "adapter_config.json"), JSON.stringify({ r: rank, lora_alpha: 2 * rank }));
  return path;
}
