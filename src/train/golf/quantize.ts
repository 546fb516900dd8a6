/**
 * int8 by rows, as the challenge's baseline exports: matrices of more than 65,536 elements become
 *   clip = the 0.9999984 quantile of |row|, scale = clip / 127 as f16, q = round(clamp(x, clip) / scale)
 * other tensors stay, vectors that steer blocks as f32, the rest as f16. `int8_clean_per_row_v1` has the baseline's least
 * scale of 1/127; `int8_clean_per_row` has none, and 1 for a row of zeros.
 */
import type { Quantization } from "./settings.ts";

const clipQuantile = 0.9999984;
const levels = 127;
/** Tensors of at most so many elements stay as they are. */
export const mostKeptElements = 65_536;
const controls = ["attn_scale", "mlp_scale", "resid_mix", "q_gain", "skip_weight"];

export type ExportedTensor = {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
};

export type StoredTensor =
  | { readonly kind: "i8"; readonly values: Int8Array; readonly scales: Float16Array }
  | { readonly kind: "f16"; readonly values: Float16Array }
  | { readonly kind: "f32"; readonly values: Float32Array };

/** Linear between neighbours, in f32. */
export function quantileOf(magnitudes: Float32Array, share: number): number {
  const sorted = magnitudes.toSorted();
  const rank = Math.fround(share) * (sorted.length - 1);
  const low = Math.floor(rank);
  const high = Math.min(low + 1, sorted.length - 1);
  return Math.fround(sorted[low]! + (rank - low) * (sorted[high]! - sorted[low]!));
}

/** Ties go to the even number. */
function rounded(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

function quantizedRows(values: Float32Array, rows: number, quantization: Quantization): StoredTensor {
  const columns = values.length / rows;
  const out = new Int8Array(values.length);
  const scales = new Float16Array(rows);
  for (let r = 0; r < rows; r++) {
    const row = values.subarray(r * columns, (r + 1) * columns);
    const clip = quantileOf(row.map(Math.abs), clipQuantile);
    const plain = Math.fround(clip / levels);
    const scale =
      quantization === "int8_clean_per_row_v1" ? Math.max(plain, Math.fround(1 / levels)) : plain || 1;
    scales[r] = scale;
    for (let i = 0; i < columns; i++) {
      const x = Math.min(Math.max(row[i]!, -clip), clip);
      out[r * columns + i] = Math.min(Math.max(rounded(Math.fround(x / scale)), -levels), levels);
    }
  }
  return { kind: "i8", values: out, scales };
}

export function quantized({ name, shape, values }: ExportedTensor, quantization: Quantization): StoredTensor {
  if (controls.some((part) => name.includes(part))) return { kind: "f32", values };
  if (values.length <= mostKeptElements) return { kind: "f16", values: Float16Array.from(values) };
  // what is no matrix has one scale
  return quantizedRows(values, shape.length === 2 ? shape[0]! : 1, quantization);
}

export function dequantized(stored: StoredTensor): Float32Array {
  if (stored.kind !== "i8") return Float32Array.from(stored.values);
  const { values, scales } = stored;
  const columns = values.length / scales.length;
  const out = new Float32Array(values.length);
  for (const [r, scale] of scales.entries())
    for (let i = r * columns; i < (r + 1) * columns; i++) out[i] = values[i]! * scale;
  return out;
}
