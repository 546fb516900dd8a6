/** f32 values as blocks of a GGUF file: the rule of kernels/cpu/quantize.cpp and of the op block_round, bit for bit. */
import { rowBytes } from "../../core/dtype.ts";
import type { RoundingFormat } from "../../ir/ops/block_round.ts";

const block = 32;
const { fround } = Math;

/** Blocks of 32 along memory, in file layout. */
export function quantised(values: Float32Array, format: RoundingFormat): Uint8Array {
  const out = new Uint8Array(rowBytes(format, values.length));
  const bytes = rowBytes(format, block);
  const view = new DataView(out.buffer);
  const write = format === "mxfp4" ? writeMxfp4 : writeQ80;
  for (let b = 0; b * block < values.length; b++) {
    write(values.subarray(b * block, (b + 1) * block), out, view, b * bytes);
  }
  return out;
}

function largestOf(x: Float32Array): number {
  let largest = 0;
  for (const v of x) if (Math.abs(v) > largest) largest = Math.abs(v);
  return largest;
}

/** Upper ends of what rounds to the first seven of the e2m1 magnitudes, doubled. */
const limits = [0.5, 1.5, 2.5, 3.5, 5, 7, 10] as const;

function writeMxfp4(x: Float32Array, out: Uint8Array, _view: DataView, at: number): void {
  const largest = largestOf(x);
  const e = largest > 0 ? Math.min(254, Math.max(0, exponentOf(largest) - 2 + 127)) : 0;
  const inverse = fround(1 / 2 ** (e - 128));
  const codes = new Uint8Array(block);
  for (const [i, value] of x.entries()) {
    const v = fround(value * inverse);
    const level = limits.findIndex((limit) => !(Math.abs(v) > limit));
    // what is too small for its scale's inverse is 0
    const magnitude = Math.abs(v) === Number.POSITIVE_INFINITY ? 0 : level < 0 ? limits.length : level;
    codes[i] = magnitude === 0 ? 0 : magnitude + (v < 0 ? 8 : 0);
  }
  out[at] = e;
  for (let j = 0; j < block / 2; j++) out[at + 1 + j] = codes[j]! | (codes[j + 16]! << 4);
}

const bits = new DataView(new ArrayBuffer(4));

/** Exponent of a number above 0 as ilogb gives it. */
function exponentOf(v: number): number {
  bits.setFloat32(0, v);
  const biased = bits.getUint32(0) >>> 23;
  return biased > 0 ? biased - 127 : Math.floor(Math.log2(v));
}

function writeQ80(x: Float32Array, out: Uint8Array, view: DataView, at: number): void {
  const d = fround(largestOf(x) / 127);
  const inverse = d !== 0 ? fround(1 / d) : 0;
  view.setFloat16(at, d, true);
  for (const [i, value] of x.entries()) {
    const v = fround(value * inverse);
    const nearest = Math.sign(v) * Math.floor(Math.abs(v) + 0.5);
    out[at + 2 + i] = Math.min(127, Math.max(-127, nearest)) & 0xff;
  }
}
