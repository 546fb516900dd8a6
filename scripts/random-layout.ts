/**
 * Random-weight files of published layouts, written as fast as the file system takes them: the large matrices come from
 * one pattern of valid blocks per type and row length, each beginning at another block of it. Used by make-random-gguf.ts
 * and gpu-check.ts.
 */
import { statSync } from "node:fs";
import { type DType, dtypes, isQuantised, rowBytes } from "../src/core/dtype.ts";
import { type TensorToWrite, writeGguf } from "../src/models/files/gguf_writer.ts";
import { type RandomModelOptions, randomModel, scaleFields } from "./random-model.ts";

/** Tensors from here on are cut out of a pattern; smaller ones keep numbers of their own. */
const leastPatternBytes = 4 * 2 ** 20;
/** Large enough that the experts of a layer differ, small enough to make in a tenth of a second. */
const patternBytes = 64 * 2 ** 20;

/** Writes the file, neither synced nor hashed, and returns its size in bytes; the same options give the same bytes. */
export function writeLayout(path: string, options: RandomModelOptions): number {
  const { metadata, tensors } = randomModel(options);
  const patterns = new Map<string, Uint8Array>();
  const written = tensors.map((tensor, i): TensorToWrite => {
    const { dtype, shape } = tensor;
    const bytes = tensorBytes(tensor);
    if (!isQuantised(dtype) || bytes < leastPatternBytes) return tensor;
    const columns = shape.at(-1)!;
    return {
      ...tensor,
      chunks() {
        const key = `${dtype} ${columns}`;
        const pattern = patterns.get(key) ?? randomBlocks(dtype, 1 / Math.sqrt(columns), options.seed);
        patterns.set(key, pattern);
        return cut(pattern, dtypes[dtype].blockBytes, bytes, i);
      },
    };
  });
  writeGguf(path, metadata, written, { sync: false });
  return statSync(path).size;
}

export function tensorBytes({ dtype, shape }: Pick<TensorToWrite, "dtype" | "shape">): number {
  return shape.slice(0, -1).reduce((a, b) => a * b, 1) * rowBytes(dtype, shape.at(-1) ?? 1);
}

/** `total` bytes of a repeated pattern, from a block that the tensor's number decides. */
function* cut(pattern: Uint8Array, blockBytes: number, total: number, tensor: number): Generator<Uint8Array> {
  const blocks = pattern.length / blockBytes;
  let from = ((tensor * 1_000_003) % blocks) * blockBytes;
  for (let done = 0; done < total; ) {
    const piece = pattern.subarray(from, Math.min(pattern.length, from + total - done));
    done += piece.length;
    from = 0;
    yield piece;
  }
}

/** About `patternBytes` of random blocks whose values have the standard deviation `deviation`. */
function randomBlocks(dtype: DType, deviation: number, seed: number): Uint8Array {
  const { blockBytes } = dtypes[dtype];
  // an odd number of blocks, so that no row length divides the pattern
  const blocks = Math.floor(patternBytes / blockBytes / 2) * 2 - 1;
  const words = new Uint32Array(Math.ceil((blocks * blockBytes) / 4));
  let state = (seed * 2654435761 + 12345) >>> 0 || 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  const out = new Uint8Array(words.buffer, 0, blocks * blockBytes);
  if (dtype === "mxfp4") {
    const exponent = 128 + Math.round(Math.log2(deviation / 5.6));
    for (let at = 0; at < out.length; at += blockBytes) out[at] = exponent;
  }
  for (const [offset, value] of scaleFields[dtype] ?? []) {
    const scales = new Uint8Array(
      Float16Array.from({ length: 16 }, (_, i) => value * deviation * (0.9 + i / 80)).buffer,
    );
    for (let b = 0; b < blocks; b++) {
      const at = b * blockBytes + offset;
      const pick = (b % 16) * 2;
      out[at] = scales[pick]!;
      out[at + 1] = scales[pick + 1]!;
    }
  }
  return out;
}
