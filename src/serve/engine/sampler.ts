import type { TokenMask } from "../grammar/index.ts";
import type { SamplingParams } from "../protocol.ts";
import { allowedOf, allowedOr, bestAllowed, firstOf, forbid, isAllowed } from "./allowed.ts";
import { draw, excludeTop, keepMinP, keepTopP, keepTypical, nucleusWithin } from "./candidates.ts";
import { penalise } from "./penalties.ts";
import { Random, randomSeed } from "./random.ts";
import { changesLogits, type SamplingSettings, samplingSettings } from "./sampling_settings.ts";
import { argmax, type Ranked, topK } from "./select.ts";
import { places, WideRow } from "./wide_row.ts";

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

/** Tokens asked for beyond top-k where some may not be allowed. */
const spareRanks = 216;

/** A nucleus is nearly always within so many tokens. */
const nucleusGuess = 256;

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

  /** `constrained`: a mask comes with every row. */
  constructor(settings: SamplingSettings, choice: number, seed: number, constrained = false) {
    this.settings = settings;
    this.changes = changesLogits(settings);
    this.random = new Random(seed, choice);
    const ranked = !settings.greedy && !this.changes && settings.topK > 0 && settings.topK <= nativeTopK;
    const { topK: k } = settings;
    this.need = {
      argmax: settings.greedy && !this.changes,
      topK: ranked ? Math.min(constrained ? k + spareRanks : k, nativeTopK) : 0,
    };
  }

  /** The number that decides the next token where the device chooses it; drawn once for each, as `choose` does. */
  place(): number {
    return this.settings.greedy ? 0 : this.random.next();
  }

  /** The next token; `history` is the prompt and what was generated so far. */
  choose(row: LogitRow, history: ArrayLike<number>, mask?: TokenMask): number {
    if (mask) return this.chooseAllowed(row, history, mask);
    if (this.need.argmax) return row.argmax();
    if (this.need.topK > 0) return this.drawFrom(row.topK(this.need.topK));
    const logits = row.copy();
    if (this.changes) penalise(logits, history, this.settings);
    return this.settings.greedy ? argmax(logits) : this.drawFromRow(logits);
  }

  /** The same among the tokens of a mask; a row is only copied where its highest logits do not decide. */
  private chooseAllowed(row: LogitRow, history: ArrayLike<number>, mask: TokenMask): number {
    const { settings, need } = this;
    if (need.argmax) {
      const best = row.argmax();
      if (isAllowed(mask, best)) return best;
    }
    if (need.topK > 0) {
      const ranked = allowedOf(row.topK(need.topK), mask);
      if (ranked.ids.length >= Math.min(settings.topK, mask.count)) {
        return allowedOr(this.drawFrom(firstOf(ranked, settings.topK)), mask);
      }
    }
    const logits = row.copy();
    if (this.changes) penalise(logits, history, settings);
    if (settings.greedy) return bestAllowed(logits, mask);
    forbid(logits, mask);
    return allowedOr(this.drawFromRow(logits), mask);
  }

  private drawFromRow(row: Float32Array): number {
    const { topK: k, typicalP, topP, minP, xtcProbability } = this.settings;
    if (k > 0 && k <= nativeTopK) return this.drawFrom(topK(row, k));
    const narrows = k > 0 || typicalP < 1 || topP < 1 || minP > 0 || xtcProbability > 0;
    if (!narrows) return this.finish({ ids: places(row.length), values: row });
    const wide = new WideRow(row);
    if (k === 0 && typicalP >= 1 && topP < 1 && nucleusGuess * wide.peak >= topP) {
      const nucleus = nucleusWithin(topK(row, nucleusGuess), wide.logSum, topP);
      if (nucleus) return this.finish(keepMinP(nucleus, minP));
    }
    wide.keepTopK(k);
    wide.keepTypical(typicalP);
    wide.keepTopP(topP);
    wide.keepMinP(minP);
    return this.finishWide(wide, row);
  }

  private drawFrom(ranked: Ranked): number {
    const { typicalP, topP, minP } = this.settings;
    return this.finish(keepMinP(keepTopP(keepTypical(ranked, typicalP), topP), minP));
  }

  /** `finish` for candidates that were not ranked. */
  private finishWide(wide: WideRow, row: Float32Array): number {
    const { xtcProbability, xtcThreshold, temperature } = this.settings;
    if (xtcProbability > 0 && this.random.next() < xtcProbability) wide.excludeTop(xtcThreshold);
    const token = wide.draw(temperature, this.random.next());
    return token < 0 ? argmax(row) : token;
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
export function makeSamplers(
  params: SamplingParams,
  choices: number,
  vocabularySize: number,
  constrained = false,
): Sampler[] {
  const settings = samplingSettings(params, vocabularySize);
  // nothing is drawn of a greedy one's
  const seed = settings.seed ?? (settings.greedy ? 0 : randomSeed());
  return Array.from({ length: choices }, (_, choice) => new Sampler(settings, choice, seed, constrained));
}
