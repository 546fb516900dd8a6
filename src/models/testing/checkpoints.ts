/** Random GGUF models rewritten as Hugging Face folders. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { RandomModel } from "../../../scripts/random-model.ts";
import type { TensorToWrite } from "../files/gguf_writer.ts";
import { dequantised, tensorBytes } from "./variants.ts";

/** A tensor as safetensors stores it. */
export type Entry = {
  readonly name: string;
  readonly dtype: "F32" | "BF16" | "U8";
  readonly shape: readonly number[];
  readonly data: ArrayBufferView;
};

/** Writes `config.json` and one safetensors file. */
export function writeCheckpoint(path: string, config: object, entries: readonly Entry[]): string {
  let offset = 0;
  const header: Record<string, unknown> = {};
  for (const { name, dtype, shape, data } of entries) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + data.byteLength] };
    offset += data.byteLength;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = new Uint8Array(new BigUint64Array([BigInt(text.length)]).buffer);
  const data = entries.map(({ data: d }) => new Uint8Array(d.buffer, d.byteOffset, d.byteLength));
  mkdirSync(path);
  writeFileSync(join(path, "config.json"), JSON.stringify(config));
  writeFileSync(join(path, "model.safetensors"), Buffer.concat([length, text, ...data]));
  return path;
}

const parts: Readonly<Record<string, string>> = {
  ...{ attn_q: "self_attn.q_proj", attn_k: "self_attn.k_proj", attn_v: "self_attn.v_proj" },
  ...{ attn_output: "self_attn.o_proj", attn_q_norm: "self_attn.q_norm", attn_k_norm: "self_attn.k_norm" },
  ...{ ffn_gate: "mlp.gate_proj", ffn_up: "mlp.up_proj", ffn_down: "mlp.down_proj" },
  ...{ attn_norm: "input_layernorm", ffn_gate_inp: "mlp.router" },
};

/** Name of a dense tensor; `norms` are the family's own for what stands between attention and MLP. */
function theirName(name: string, norms: Readonly<Record<string, string>>): string {
  if (name === "token_embd.weight") return "model.embed_tokens.weight";
  if (name === "output_norm.weight") return "model.norm.weight";
  if (name === "output.weight") return "lm_head.weight";
  const [, layer, part, kind] = /^blk\.(\d+)\.(\w+)\.(\w+)$/.exec(name) as unknown as string[];
  if (part === "attn_sinks") return `model.layers.${layer}.self_attn.sinks`;
  return `model.layers.${layer}.${norms[part!] ?? parts[part!]}.${kind}`;
}

/** Rows of a llama GGUF's queries or keys, pairs (2i, 2i+1) per head, in the order (i, i + d/2) of checkpoints. */
function halves(values: Float32Array, columns: number, headDim: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let row = 0; row < values.length / columns; row++) {
    const inHead = row % headDim;
    const to = row - inHead + (inHead % 2) * (headDim / 2) + Math.floor(inHead / 2);
    out.set(values.subarray(row * columns, (row + 1) * columns), to * columns);
  }
  return out;
}

/** Entries in f32 of a dense model; `change` may alter a tensor's values, such as norms stored less one. */
export function denseEntries(
  model: RandomModel,
  options: {
    readonly norms: Readonly<Record<string, string>>;
    /** Of models whose GGUF pairs neighbouring rows. */
    readonly permutedHeadDim?: number;
    readonly change?: (tensor: TensorToWrite, values: Float32Array) => Float32Array;
  },
): Entry[] {
  const { norms, permutedHeadDim, change } = options;
  return model.tensors.map((tensor) => {
    let data: Float32Array = dequantised(tensor);
    if (permutedHeadDim && /attn_[qk]\.weight$/.test(tensor.name))
      data = halves(data, tensor.shape[1]!, permutedHeadDim);
    if (change) data = change(tensor, data);
    return { name: theirName(tensor.name, norms), dtype: "F32", shape: tensor.shape, data };
  });
}

/** Entries of a GPT-OSS model with MXFP4 experts: gate and up rows in turn, scales apart, neighbours in one byte. */
export function gptOssEntries(model: RandomModel, layers: number): Entry[] {
  const isExperts = (t: TensorToWrite): boolean => /_exps\./.test(t.name);
  const dense = { ...model, tensors: model.tensors.filter((t) => !isExperts(t)) };
  const norms = { post_attention_norm: "post_attention_layernorm" };
  const entries = denseEntries(dense, { norms });
  const get = (name: string): TensorToWrite => model.tensors.find((t) => t.name === name)!;
  for (let i = 0; i < layers; i++) {
    const [gate, up, down] = ["gate", "up", "down"].map((part) => `blk.${i}.ffn_${part}_exps`);
    for (const [theirs, ours] of [
      ["gate_up_proj", [gate!, up!]],
      ["down_proj", [down!]],
    ] as const) {
      const stem = `model.layers.${i}.mlp.experts.${theirs}`;
      entries.push(
        ...mxfp4Entries(
          stem,
          ours.map((name) => get(`${name}.weight`)),
        ),
      );
      const biases = ours.map((name) => get(`${name}.bias`));
      const [experts, rows] = biases[0]!.shape as [number, number];
      const data = interleaved(biases.map(tensorBytes), experts * rows, 4);
      entries.push({ name: `${stem}_bias`, dtype: "F32", shape: [experts, rows * ours.length], data });
    }
  }
  return entries;
}

/** Row r of each part in turn. */
function interleaved(sources: readonly Uint8Array[], rows: number, rowBytes: number): Uint8Array {
  const out = new Uint8Array(sources.length * rows * rowBytes);
  for (let r = 0; r < rows; r++) {
    for (const [p, source] of sources.entries())
      out.set(source.subarray(r * rowBytes, (r + 1) * rowBytes), (r * sources.length + p) * rowBytes);
  }
  return out;
}

function mxfp4Entries(stem: string, tensors: readonly TensorToWrite[]): Entry[] {
  const [experts, rows, columns] = tensors[0]!.shape as [number, number, number];
  const count = columns / 32;
  const source = interleaved(tensors.map(tensorBytes), experts * rows, count * 17);
  const blocks = new Uint8Array((source.length / 17) * 16);
  const scales = new Uint8Array(source.length / 17);
  for (let b = 0; b < scales.length; b++) {
    scales[b] = source[b * 17]!;
    const code = (i: number): number => (source[b * 17 + 1 + (i % 16)]! >> (i < 16 ? 0 : 4)) & 15;
    for (let j = 0; j < 16; j++) blocks[b * 16 + j] = code(2 * j) | (code(2 * j + 1) << 4);
  }
  const shape = [experts, rows * tensors.length, count];
  return [
    { name: `${stem}_blocks`, dtype: "U8", shape: [...shape, 16], data: blocks },
    { name: `${stem}_scales`, dtype: "U8", shape, data: scales },
  ];
}
