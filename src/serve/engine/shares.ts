import { outputCount, type Part } from "./assemble.ts";
import type { StepExecutor } from "./batch.ts";
import type { PromptBudget } from "./budget.ts";
import { pageSize } from "./pages.ts";
import type { Sequence } from "./sequence.ts";

/** Bytes of logits one step may ask for; what bounds the rows of a prompt with log-probabilities. */
const outputBytesPerStep = 32 * 2 ** 20;

/** What bounds the parts of a step besides the prompt budget. */
export type ShareLimits = {
  /** Rows of logits. */
  readonly largestOutput: number;
  /** Rows of hidden states. */
  readonly largestHidden: number;
  /** States of recurrent layers are kept at page boundaries, so steps end there. */
  readonly recurrent: boolean;
  /** Such a state can be kept in the middle of a step, so that a prompt's need not end there. */
  readonly keepsInside: boolean;
};

export function shareLimits(
  executor: StepExecutor,
  slots: number,
  recurrent: boolean,
  keepsInside: boolean,
): ShareLimits {
  const rowBytes = executor.vocabularySize * 4;
  return {
    largestOutput: Math.max(slots, Math.floor(outputBytesPerStep / rowBytes)),
    largestHidden: Math.max(1, Math.floor(outputBytesPerStep / (4 * (executor.pooling?.width ?? 1)))),
    recurrent,
    keepsInside,
  };
}

/** Divides a step: one token for every generating sequence, the prompt budget over the others, who take turns at it. */
export function stepShares(
  active: readonly Sequence[],
  budget: PromptBudget,
  turn: number,
  limits: ShareLimits,
): Map<Sequence, Part> {
  const shares = new Map<Sequence, Part>();
  const reading = active.filter((s) => s.pending > 1 || !s.promptDone);
  const generating = active.length - reading.length;
  for (const sequence of active) shares.set(sequence, { sequence, count: 1, outputs: "last" });
  let left = budget.tokens(generating);
  let rows = Math.max(1, limits.largestOutput - generating);
  for (let i = 0; i < reading.length; i++) {
    const sequence = reading[(turn + i) % reading.length]!;
    const part = share(sequence, left, rows, limits);
    if (!part) {
      shares.delete(sequence);
      continue;
    }
    shares.set(sequence, part);
    left -= part.count;
    rows -= outputCount(part);
  }
  return shares;
}

function share(
  sequence: Sequence,
  left: number,
  rows: number,
  { largestHidden, recurrent, keepsInside }: ShareLimits,
): Part | undefined {
  const all = sequence.request.wantsPromptLogprobs && sequence.choice === 0 && !sequence.promptDone;
  const stop = nextStop(sequence, keepsInside);
  const { pool } = sequence.request;
  const most = Math.min(sequence.pending, left, stop, all ? rows : pool ? largestHidden : Infinity);
  const count = recurrent ? wholePages(sequence, most) : most;
  const ends = count === sequence.pending;
  if (pool && count > 0) {
    const hidden = pool.wanted(sequence.computed, count, sequence.length);
    return { sequence, count, outputs: "none", hidden };
  }
  if (count <= 0 || (ends && rows <= 0)) return undefined;
  return { sequence, count, outputs: all ? "all" : ends ? "last" : "none" };
}

/** Tokens up to the next place of a prompt that is to be recorded. */
function nextStop({ branchPage, statePage, computed }: Sequence, keepsInside: boolean): number {
  const stops = keepsInside ? [branchPage] : [branchPage, statePage];
  const ahead = stops.map((page) => page * pageSize - computed).filter((n) => n > 0);
  return Math.min(...ahead);
}

/** Of so many tokens those up to a page boundary, where there is one: states are kept there. */
function wholePages({ computed, pending }: Sequence, most: number): number {
  if (most === pending) return most;
  const whole = most - ((computed + most) % pageSize);
  return whole > 0 ? whole : most;
}
