/** The metric: mean loss per target and bits per byte of held-out text, in windows side by side or sliding. */
import { unexpected } from "../../core/error.ts";
import type { HostBatch } from "../../data/batches.ts";
import { type ByteTable, countBytes } from "../../data/byte_counts.ts";
import { type GolfSettings, strideOf } from "./settings.ts";

export type Score = {
  readonly eval_mode: string;
  readonly evaluated_sequence_count: number;
  readonly evaluated_token_count: number;
  readonly evaluated_byte_count: number;
  /** Nats per token. */
  readonly mean_loss: number;
  readonly bits_per_byte: number;
};

/** Nats per token to bits per byte. */
export const bitsPerByte = (meanLoss: number, tokens: number, bytes: number): number =>
  (meanLoss / Math.LN2) * (tokens / bytes);

/** First target and count of the last targets that count, of each window of `length` targets. */
export type ScoredWindow = { readonly start: number; readonly scored: number };

/**
 * Windows that score each of `targets` once: side by side, or `stride` apart, all but the first then counting their last
 * targets alone, so that each has at least `length - stride` tokens before it.
 */
export function scoredWindows(targets: number, length: number, stride: number | undefined): ScoredWindow[] {
  if (targets < length)
    throw unexpected("invalid_request", "bits per byte", `at least ${length} targets`, targets);
  const windows: ScoredWindow[] = [{ start: 0, scored: length }];
  for (let end = length; end < targets; ) {
    const scored = Math.min(stride ?? length, targets - end);
    end += scored;
    windows.push({ start: end - length, scored });
  }
  return windows;
}

/** Validation tokens that are scored: whole windows side by side, and the one before them. */
export const scoredTokens = (tokens: Int32Array, length: number): Int32Array =>
  tokens.subarray(0, Math.floor((tokens.length - 1) / length) * length + 1);

function batchOfWindows(tokens: Int32Array, windows: readonly ScoredWindow[], length: number): HostBatch {
  const rows = windows.length * length;
  const batch = {
    ...{ sequences: windows.length, length, tokens: new Int32Array(rows) },
    ...{
      targets: new Int32Array(rows).fill(-1),
      positions: Int32Array.from({ length: rows }, (_, i) => i % length),
    },
  };
  for (const [i, { start, scored }] of windows.entries()) {
    const end = start + length;
    batch.tokens.set(tokens.subarray(start, end), i * length);
    batch.targets.set(tokens.subarray(end - scored + 1, end + 1), (i + 1) * length - scored);
  }
  return batch;
}

/**
 * Scores a model on tokens. `lossOf`: the sum of the losses of a batch's targets, in nats, those below 0 not counted;
 * batches have `sequences` windows, the last one fewer.
 */
export function score(
  lossOf: (batch: HostBatch) => number,
  tokens: Int32Array,
  bytes: ByteTable,
  s: Pick<GolfSettings, "eval_mode" | "length" | "sequences">,
  onWindow: (done: number, total: number) => void = () => {},
): Score {
  const used = scoredTokens(tokens, s.length);
  const count = used.length - 1;
  const windows = scoredWindows(count, s.length, strideOf(s));
  let total = 0;
  for (let at = 0; at < windows.length; at += s.sequences) {
    total += lossOf(batchOfWindows(used, windows.slice(at, at + s.sequences), s.length));
    onWindow(Math.min(at + s.sequences, windows.length), windows.length);
  }
  const byteCount = countBytes(bytes, used.subarray(1), used.subarray(0, count));
  const mean = total / count;
  return {
    eval_mode: s.eval_mode,
    evaluated_sequence_count: windows.length,
    evaluated_token_count: count,
    evaluated_byte_count: byteCount,
    mean_loss: mean,
    bits_per_byte: bitsPerByte(mean, count, byteCount),
  };
}
