import { unexpected } from "../../core/error.ts";
import type { TokenLogprob } from "../protocol.ts";
import type { PromptLogprob } from "./active_request.ts";
import type { Part } from "./assemble.ts";
import type { Logits } from "./batch.ts";
import type { Pool } from "./pooling.ts";
import type { LogitRow } from "./sampler.ts";
import type { Ranked } from "./select.ts";

/**
 * Reads logits row by row; whatever the device computes for all rows at once is asked for once a step, with the
 * largest k that any row needs (a shorter ranking is a prefix of a longer one).
 */
export class LogitReader {
  private readonly logits: Logits;
  private readonly largestK: number;
  private best: Int32Array | undefined;
  private ranked: readonly Ranked[] | undefined;
  private sums: Float32Array | undefined;

  constructor(logits: Logits, largestK: number) {
    this.logits = logits;
    this.largestK = largestK;
  }

  row(row: number): LogitRow {
    return {
      argmax: () => {
        this.best ??= this.logits.argmax();
        return this.best[row]!;
      },
      topK: (k) => this.top(row, k),
      copy: () => this.logits.copy(row),
    };
  }

  /** The token that the device chose for a row; undefined where it chose none. */
  chosen(row: number): number | undefined {
    const token = this.logits.chosen(row)?.token;
    if (token === undefined || token >= 0) return token;
    throw unexpected("internal", "sample", `a token of row ${row}`, "a choice out of contract");
  }

  /**
   * Log-probability of `token` and of the `count` likeliest tokens: log-softmax of the model's own logits, before
   * bias, penalties and temperature.
   */
  logprobs(row: number, token: number, count: number): PromptLogprob {
    this.sums ??= this.logits.logSumExp();
    const total = this.sums[row]!;
    const { ids, values } = this.top(row, Math.max(count, 1));
    const place = ids.indexOf(token);
    const logprob = place >= 0 ? values[place]! - total : this.logprob(row, token, total);
    const top: TokenLogprob[] = [];
    for (let i = 0; i < Math.min(count, ids.length); i++) {
      top.push({ token: ids[i]!, logprob: finite(values[i]! - total) });
    }
    return { token, logprob: finite(logprob), top };
  }

  /** Of a token that is not among the likeliest. */
  private logprob(row: number, token: number, total: number): number {
    const chosen = this.logits.chosen(row);
    if (!chosen) return this.logits.copy(row)[token]! - total;
    // another than the device chose stands for it only where no token that a grammar allows has a probability
    return chosen.token === token ? chosen.logprob : Number.NaN;
  }

  private top(row: number, k: number): Ranked {
    this.ranked ??= this.logits.topK(this.largestK);
    const { ids, values } = this.ranked[row]!;
    return { ids: ids.subarray(0, k), values: values.subarray(0, k) };
  }
}

/** Hands the hidden states of a step out part by part; they are copied when the first part has some. */
export class HiddenReader {
  private readonly logits: Logits;
  private states: Float32Array | undefined;
  private at = 0;

  constructor(logits: Logits) {
    this.logits = logits;
  }

  /** Those of the next part, f32 [rows, D]; undefined where it has none. */
  take({ hidden = [0, 0] }: Part, pool: Pool | undefined): Float32Array | undefined {
    const rows = hidden[1] - hidden[0];
    if (!pool || rows <= 0) return undefined;
    this.states ??= this.logits.hidden();
    const from = this.at;
    this.at += rows * pool.width;
    return this.states.subarray(from, this.at);
  }
}

/** What clients of this API expect where a probability is zero; JSON has no infinity. */
const impossible = -9999;

function finite(logprob: number): number {
  return Number.isNaN(logprob) ? impossible : Math.max(logprob, impossible);
}
