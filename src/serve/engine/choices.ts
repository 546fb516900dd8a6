import { allowedOr } from "./allowed.ts";
import { outputCount, type Part } from "./assemble.ts";
import type { Batch, TokenChoice } from "./batch.ts";
import type { LogitReader } from "./reader.ts";
import { sampledOnDevice, sampleEntries } from "./sample_record.ts";
import { changesLogits } from "./sampling_settings.ts";
import type { Sequence } from "./sequence.ts";

/**
 * What a device that chooses tokens is to choose in a step of these parts, `ahead` tokens behind what the host knows; draws
 * the numbers that decide. `maskOf` gives the words of the tokens that a sequence's grammar allows.
 */
export function choicesOf(
  parts: readonly Part[],
  ahead: number,
  maskOf: (sequence: Sequence) => Int32Array | undefined,
): Pick<Batch, "choices" | "ranks"> {
  const choices: TokenChoice[] = [];
  let ranks = 0;
  let row = 0;
  for (const part of parts) {
    row += outputCount(part);
    const { sequence, count, outputs } = part;
    const { request, sampler, constraint, computed } = sequence;
    const { settings } = sampler;
    const length = sequence.length + ahead;
    const ends = outputs !== "none" && computed + ahead + count === length;
    if (!ends || length >= request.limit || !sampledOnDevice(settings)) continue;
    const logprob = request.topLogprobs !== undefined;
    if (logprob) ranks = Math.max(ranks, request.topLogprobs, 1);
    choices.push({
      ...{ row: row - 1, settings, place: sampler.place(), logprob },
      ...(changesLogits(settings) && { entries: () => sampleEntries(settings, sequence.tokens) }),
      ...(constraint && { mask: () => maskOf(sequence) }),
    });
  }
  return { choices, ranks };
}

/** The next token of a sequence: the device's choice, or that of its sampler where the device made none. */
export function chosenToken(sequence: Sequence, reader: LogitReader, row: number): number {
  const { sampler, tokens, constraint } = sequence;
  const chosen = reader.chosen(row);
  const mask = constraint?.mask();
  if (chosen === undefined) return sampler.choose(reader.row(row), tokens, mask);
  return mask ? allowedOr(chosen, mask) : chosen;
}

/** Largest ranking that a row of the step asks for. */
export function largestRanking(parts: readonly Part[]): number {
  let k = 1;
  for (const { sequence } of parts) {
    k = Math.max(k, sequence.sampler.need.topK, sequence.request.topLogprobs ?? 0);
  }
  return k;
}
