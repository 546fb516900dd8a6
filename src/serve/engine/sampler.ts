import type { SamplingParams } from "../protocol.ts";
import { draw, excludeTop, keepMinP, keepTopP, keepTypical, minPOfRow, nucleus } from "./candidates.ts";
import { penalise } from "./penalties.ts";
import { Random, randomSeed } from "./random.ts";
import { changesLogits, type SamplingSettings, samplingSettings } from "./sampling_settings.ts";
import { argmax, type Ranked, topK } from "./select.ts";

/** The logits of one token, read in the cheapest way that answers. */
export interface LogitRow {
  argmax(): number;
  /** `k` at most `nativeTopK`; descending, the lower id first on ties */
  topK(k: number): Ranked;
  /** A copy that the caller may change, f32 [V]. */
  copy(): Float32Array;
}

/** Largest k that is asked of the device; beyond it a whole row is read instead. */
export const nativeTopK = 1024;

/** What a sampler will read of its row, so that one device call serves all rows of a step. */
export type RowNeed = { readonly argmax: boolean; readonly topK: number };

/**
 * Chooses the tokens of one choice of a request: logit bias, penalties, DRY, top-k, typical, top-p, min-p, XTC,
 * temperature, seeded draw. It depends on the request, its own row and its own history, on nothing else in the batch.
 */
export class Sampler {
  readonly settings: SamplingSettings;
  readonly need: RowNeed;
  private readonly changes: boolean;
  private readonly random: Random;

  constructor(settings: SamplingSettings, choice: number, seed: number) {
    this.settings = settings;
    this.changes = changesLogits(settings);
    this.random = new Random(seed, choice);
    const ranked = !settings.greedy && !this.changes && settings.topK > 0 && settings.topK <= nativeTopK;
    this.need = { argmax: settings.greedy && !this.changes, topK: ranked ? settings.topK : 0 };
  }

  /** The next token; `history` is the prompt and what was generated so far. */
  choose(row: LogitRow, history: ArrayLike<number>): number {
    if (this.need.argmax) return row.argmax();
    if (this.need.topK > 0) return this.drawFrom(row.topK(this.need.topK));
    const logits = row.copy();
    if (this.changes) penalise(logits, history, this.settings);
    return this.settings.greedy ? argmax(logits) : this.drawFromRow(logits);
  }

  private drawFromRow(row: Float32Array): number {
    const { topK: k, typicalP, topP, minP, xtcProbability } = this.settings;
    if (k > 0) return this.drawFrom(topK(row, k));
    if (typicalP < 1) return this.drawFrom(topK(row, row.length));
    if (topP < 1) return this.finish(keepMinP(nucleus(row, topP), minP));
    if (minP > 0) return this.finish(minPOfRow(row, minP));
    if (xtcProbability > 0) return this.finish(topK(row, row.length));
    return this.finish({ ids: Int32Array.from(row, (_, i) => i), values: row });
  }

  private drawFrom(ranked: Ranked): number {
    const { typicalP, topP, minP } = this.settings;
    return this.finish(keepMinP(keepTopP(keepTypical(ranked, typicalP), topP), minP));
  }

  private finish(c: Ranked): number {
    const { xtcProbability, xtcThreshold, temperature } = this.settings;
    const exclude = xtcProbability > 0 && this.random.next() < xtcProbability;
    const kept = exclude ? excludeTop(c, xtcThreshold) : c;
    const u = this.random.next();
    // a row of NaN has no candidates; it decodes as the greedy rule says
    return kept.ids.length === 0 ? 0 : draw(kept, temperature, u);
  }
}

/** One sampler per choice; they draw from different streams of one seed. */
export function makeSamplers(params: SamplingParams, choices: number, vocabularySize: number): Sampler[] {
  const settings = samplingSettings(params, vocabularySize);
  const seed = settings.seed ?? randomSeed();
  return Array.from({ length: choices }, (_, choice) => new Sampler(settings, choice, seed));
}
