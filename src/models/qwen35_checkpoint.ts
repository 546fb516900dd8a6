/** The experts of a Qwen3.5 checkpoint that holds each one's matrices apart, as GGUF's stacks of them. */
import { unexpected } from "../core/error.ts";
import type { Checkpoint } from "./checkpoint_weights.ts";
import type { Converted } from "./converted_tensor.ts";
import type { TensorRecord } from "./files/tensors.ts";

const parts: Readonly<Record<string, string>> = {
  ffn_gate_exps: "gate_proj",
  ffn_up_exps: "up_proj",
  ffn_down_exps: "down_proj",
};

/** The stack that a GGUF name means, or undefined when the name is none of the experts' or there is no such expert. */
export function qwen35Experts(checkpoint: Checkpoint, name: string): Converted | undefined {
  const match = /^blk\.(\d+)\.(ffn_(?:gate|up|down)_exps)\.weight$/.exec(name);
  if (!match) return undefined;
  const record = (expert: number): TensorRecord | undefined => {
    const part = `mlp.experts.${expert}.${parts[match[2]!]}.weight`;
    return checkpoint.records.get(checkpoint.layerName(Number(match[1]), part));
  };
  const all: TensorRecord[] = [];
  for (let next = record(0); next; next = record(all.length)) all.push(next);
  const [first] = all;
  if (!first) return undefined;
  const { dtype, shape, bytes } = first;
  const other = all.find((r) => r.dtype !== dtype || r.shape.join() !== shape.join());
  if (other) {
    const expected = `${dtype} [${shape.join(", ")}] as ${first.name} is`;
    throw unexpected("file_malformed", other.name, expected, `${other.dtype} [${other.shape.join(", ")}]`);
  }
  if (dtype !== "bf16" && dtype !== "f16" && dtype !== "f32")
    throw unexpected("unsupported", first.name, "experts in bf16, f16 or f32", dtype);
  return {
    dtype,
    shape: [all.length, ...shape],
    make() {
      const out = new Uint8Array(all.length * bytes);
      for (const [e, r] of all.entries()) out.set(checkpoint.read(r), e * bytes);
      return out;
    },
  };
}
