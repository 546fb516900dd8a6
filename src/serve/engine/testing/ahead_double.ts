/** The paged double as a device that chooses tokens and is given steps before the last one was read. */
import type { Batch, Logits, StartedStep, TokenChoice } from "../batch.ts";
import { draw, keepMinP, keepTopP } from "../candidates.ts";
import { argmax, topK } from "../select.ts";
import { places } from "../wide_row.ts";
import { PagedDouble } from "./paged_double.ts";

export class AheadDouble extends PagedDouble {
  readonly chooses = true;
  /** Steps whose tokens came from the one before. */
  followed = 0;
  /** Steps that were started and not read. */
  unread = 0;
  /** A following step fails. */
  failNextFollowing = false;
  /** What reading the next step throws, as a kernel that failed meanwhile does. */
  failure: Error | undefined;
  private started = 0;
  private last: readonly number[] | undefined;

  override run(batch: Batch, read: (logits: Logits) => void, meanwhile?: () => void): void {
    this.last = undefined;
    super.run(batch, (logits) => read(withChoices(logits, batch.choices ?? [])), meanwhile);
  }

  /** Computes at once: a device that works in order gives the same. */
  start(batch: Batch): StartedStep | undefined {
    const { choices = [], tokens, outputRows, hiddenRows, follows, ranks = 0 } = batch;
    const rows = batch.sequenceCount;
    const whole = tokens.length === rows && outputRows.length === rows && choices.length === rows;
    if (!whole || hiddenRows) return undefined;
    if (this.failNext || (follows && this.failNextFollowing)) {
      this.failNext = false;
      this.failNextFollowing = false;
      throw new Error("the double was told to fail");
    }
    if (follows && !this.last) throw new Error("there is no step to follow");
    if (follows) this.followed += 1;
    this.steps += 1;
    this.unread += 1;
    const number = ++this.started;
    this.largestBatch = Math.max(this.largestBatch, tokens.length);
    const given = follows ? follows.map((row) => this.last![row]!) : tokens;
    const all = withChoices(this.results({ ...batch, tokens: given }), choices);
    this.last = choices.map(({ row }) => all.chosen(row)!.token);
    const absent = (): never => {
      throw new Error("that cannot be had of a started step");
    };
    const none = ranks === 0 && { topK: absent, logSumExp: absent };
    const results = { ...all, argmax: absent, copy: absent, hidden: absent, ...none };
    return {
      results: () => {
        this.unread -= 1;
        // a device keeps the results of few steps
        if (this.started > number + 1) throw new Error("that step is read too late");
        if (this.failure) throw this.failure;
        return results;
      },
    };
  }
}

function withChoices(logits: Logits, choices: readonly TokenChoice[]): Logits {
  const tokens = new Map(choices.map((choice) => [choice.row, choose(choice, logits.copy(choice.row))]));
  const sums = logits.logSumExp();
  return {
    ...logits,
    chosen(row) {
      const token = tokens.get(row);
      return token === undefined ? undefined : { token, logprob: logits.copy(row)[token]! - sums[row]! };
    },
  };
}

/** What the op `sample` says, on one row. */
function choose({ settings, place, entries, mask }: TokenChoice, row: Float32Array): number {
  const { repeatPenalty, frequencyPenalty, presencePenalty, topP, minP, temperature } = settings;
  for (const { token, count, bias, loss } of entries?.() ?? []) {
    row[token] = row[token]! + bias;
    const logit = row[token]!;
    const scaled = logit >= 0 ? logit / repeatPenalty : logit * repeatPenalty;
    if (count > 0) row[token] = scaled - frequencyPenalty * count - presencePenalty;
    row[token] = row[token]! - loss;
  }
  const words = mask?.();
  if (words)
    for (let i = 0; i < row.length; i++) if (!((words[i >> 5]! >>> (i & 31)) & 1)) row[i] = -Infinity;
  if (settings.greedy) return argmax(row);
  if (settings.topK === 0 && topP >= 1 && minP <= 0)
    return draw({ ids: places(row.length), values: row }, temperature, place);
  const ranked = topK(row, settings.topK || row.length);
  return draw(keepMinP(keepTopP(ranked, topP), minP), temperature, place);
}
