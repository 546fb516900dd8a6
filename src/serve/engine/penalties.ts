import { repeatedContinuations } from "./dry.ts";
import type { SamplingSettings } from "./sampling_settings.ts";

/** Changes a row of logits, f32 [V], in place: bias, repetition penalties over the window, then DRY. */
export function penalise(row: Float32Array, history: ArrayLike<number>, settings: SamplingSettings): void {
  for (const [token, bias] of settings.logitBias) row[token] = row[token]! + bias;
  if (settings.repeats) penaliseRepeats(row, history, settings);
  if (settings.dryMultiplier > 0) penaliseRepetition(row, history, settings);
}

/**
 * Repeat penalty divides a logit at or above zero and multiplies one below; then frequency times the count, then
 * presence, are subtracted.
 */
function penaliseRepeats(row: Float32Array, history: ArrayLike<number>, settings: SamplingSettings): void {
  const { repeatPenalty, frequencyPenalty, presencePenalty } = settings;
  for (const [token, count] of repeatCounts(history, settings)) {
    const logit = row[token]!;
    const scaled = logit >= 0 ? logit / repeatPenalty : logit * repeatPenalty;
    row[token] = scaled - frequencyPenalty * count - presencePenalty;
  }
}

/** How often each token stands in the window, which counts prompt tokens too; a negative length means the whole history. */
export function repeatCounts(
  history: ArrayLike<number>,
  settings: SamplingSettings,
): ReadonlyMap<number, number> {
  const counts = new Map<number, number>();
  for (let i = windowStart(history.length, settings.repeatLastN); i < history.length; i++) {
    const token = history[i]!;
    counts.set(token, (counts.get(token) ?? 0) + 1);
  }
  return counts;
}

/** ln of the largest f32: an exponent beyond it would turn a penalty into infinity. */
const maxLog = 88.7;

function penaliseRepetition(row: Float32Array, history: ArrayLike<number>, settings: SamplingSettings): void {
  for (const [token, loss] of repetitionLosses(history, settings)) row[token] = row[token]! - loss;
}

/** DRY: a token that would go on with a repetition of length n >= allowed loses multiplier * base^(n - allowed). */
export function* repetitionLosses(
  history: ArrayLike<number>,
  settings: SamplingSettings,
): Generator<readonly [token: number, loss: number]> {
  const { dryMultiplier, dryBase, dryAllowedLength, drySequenceBreakers } = settings;
  const start = windowStart(history.length, settings.dryPenaltyLastN);
  const limit = dryBase > 1.000001 ? maxLog / Math.log(dryBase) : Infinity;
  for (const [token, length] of repeatedContinuations(history, start, drySequenceBreakers)) {
    if (length < dryAllowedLength) continue;
    yield [token, dryMultiplier * dryBase ** Math.min(length - dryAllowedLength, limit)];
  }
}

function windowStart(length: number, lastN: number): number {
  return lastN < 0 ? 0 : Math.max(0, length - lastN);
}
