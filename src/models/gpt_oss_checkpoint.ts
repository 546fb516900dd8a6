/**
 * The experts of a GPT-OSS checkpoint in GGUF's order. There, even rows of gate_up are gate and odd rows up; bf16 forms
 * are stored [E, in, out]; MXFP4 forms hold elements 2j and 2j+1 in byte j of a block and the scales apart.
 */
import { unexpected } from "../core/error.ts";
import type { Checkpoint } from "./checkpoint_weights.ts";
import type { Converted } from "./converted_tensor.ts";
import type { TensorRecord } from "./files/tensors.ts";

/** The conversion that gives a GGUF tensor of the experts, or undefined when the name is none of theirs. */
export function gptOssExperts(checkpoint: Checkpoint, name: string): Converted | undefined {
  const match = /^blk\.(\d+)\.(ffn_gate_up_exps|ffn_down_exps)\.(weight|bias)$/.exec(name);
  if (!match) return undefined;
  const layer = Number(match[1]);
  const gateUp = match[2] === "ffn_gate_up_exps";
  const stem = checkpoint.layerName(layer, `mlp.experts.${gateUp ? "gate_up_proj" : "down_proj"}`);
  const record = (suffix: string): TensorRecord | undefined => checkpoint.records.get(stem + suffix);
  if (match[3] === "bias") {
    const bias = record("_bias");
    return bias && biasOf(checkpoint, bias, gateUp);
  }
  const dense = record("");
  if (dense) return transposed(checkpoint, dense, gateUp);
  const blocks = record("_blocks");
  const scales = record("_scales");
  return blocks && scales && mxfp4(checkpoint, blocks, scales, gateUp);
}

/** Row of the GGUF order for row `r` of the checkpoint's `rows`. */
function targetRow(r: number, rows: number, gateUp: boolean): number {
  if (!gateUp) return r;
  return r % 2 === 0 ? r / 2 : rows / 2 + (r - 1) / 2;
}

function biasOf(checkpoint: Checkpoint, record: TensorRecord, gateUp: boolean): Converted {
  const [experts, rows] = dimensions(record, 2) as [number, number];
  const width = record.bytes / (experts * rows);
  return {
    dtype: floatType(record),
    shape: [experts, rows],
    make() {
      const source = checkpoint.read(record);
      const out = new Uint8Array(source.length);
      for (let e = 0; e < experts; e++) {
        for (let r = 0; r < rows; r++) {
          const from = (e * rows + r) * width;
          out.set(source.subarray(from, from + width), (e * rows + targetRow(r, rows, gateUp)) * width);
        }
      }
      return out;
    },
  };
}

/** [E, in, out] of 16-bit floats to [E, out, in]. */
function transposed(checkpoint: Checkpoint, record: TensorRecord, gateUp: boolean): Converted {
  const [experts, inputs, rows] = dimensions(record, 3) as [number, number, number];
  const dtype = floatType(record);
  return {
    dtype,
    shape: [experts, rows, inputs],
    make() {
      const bytes = checkpoint.read(record).slice().buffer;
      const View = record.bytes === experts * inputs * rows * 2 ? Uint16Array : Uint32Array;
      const source = new View(bytes);
      const out = new View(source.length);
      for (let e = 0; e < experts; e++) {
        const base = e * inputs * rows;
        for (let r = 0; r < rows; r++) {
          const to = base + targetRow(r, rows, gateUp) * inputs;
          for (let i = 0; i < inputs; i++) out[to + i] = source[base + i * rows + r]!;
        }
      }
      return new Uint8Array(out.buffer);
    },
  };
}

/** blocks u8 [E, rows, K/32, 16] and scales u8 [E, rows, K/32] to GGUF blocks of 17 bytes. */
function mxfp4(
  checkpoint: Checkpoint,
  blocks: TensorRecord,
  scales: TensorRecord,
  gateUp: boolean,
): Converted {
  const [experts, rows, count] = dimensions(blocks, 4) as [number, number, number];
  if (scales.bytes !== experts * rows * count || blocks.bytes !== scales.bytes * 16) {
    throw unexpected(
      "file_malformed",
      blocks.name,
      `scales for ${experts * rows * count} blocks`,
      scales.bytes,
    );
  }
  return {
    dtype: "mxfp4",
    shape: [experts, rows, count * 32],
    make() {
      const source = checkpoint.read(blocks);
      const exponents = checkpoint.read(scales);
      const out = new Uint8Array(exponents.length * 17);
      for (let e = 0; e < experts; e++) {
        for (let r = 0; r < rows; r++) {
          const from = (e * rows + r) * count;
          const to = (e * rows + targetRow(r, rows, gateUp)) * count;
          for (let b = 0; b < count; b++)
            mxfp4Block(source, (from + b) * 16, exponents[from + b]!, out, (to + b) * 17);
        }
      }
      return out;
    },
  };
}

/** Byte j of the result holds elements j and j + 16. */
function mxfp4Block(source: Uint8Array, from: number, exponent: number, out: Uint8Array, to: number): void {
  out[to] = exponent;
  const element = (i: number): number => (source[from + (i >> 1)]! >> (4 * (i & 1))) & 15;
  for (let j = 0; j < 16; j++) out[to + 1 + j] = element(j) | (element(j + 16) << 4);
}

function dimensions(record: TensorRecord, rank: number): readonly number[] {
  if (record.shape.length !== rank) {
    throw unexpected("file_malformed", record.name, `${rank} dimensions`, `[${record.shape.join(", ")}]`);
  }
  return record.shape;
}

function floatType(record: TensorRecord): "f32" | "f16" | "bf16" {
  const { dtype } = record;
  if (dtype === "f32" || dtype === "f16" || dtype === "bf16") return dtype;
  throw unexpected("unsupported", record.name, "f32, f16 or bf16", dtype);
}
