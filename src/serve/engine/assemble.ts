import type { Batch } from "./batch.ts";
import { pagesFor } from "./pages.ts";
import type { Sequence } from "./sequence.ts";

/** What one sequence contributes to a step. */
export type Part = {
  readonly sequence: Sequence;
  /** Tokens computed in this step, from `sequence.computed` on. */
  readonly count: number;
  /** Places of the part, 0..count-1, whose logits are wanted: the last, or all of a prompt with log-probabilities. */
  readonly outputs: "none" | "last" | "all";
  /** Places whose hidden states are wanted, `[first, end)`; absent: none. */
  readonly hidden?: readonly [number, number];
};

/** Lays the parts of a step out as one flat batch; `ahead`: positions of each sequence that a step under way computes. */
export function assemble(parts: readonly Part[], groupCount: number, ahead = 0): Batch {
  const total = parts.reduce((n, part) => n + part.count, 0);
  const maxPages = Math.max(
    ...parts.map(({ sequence, count }) => pagesFor(sequence.computed + ahead + count)),
  );
  const tokens = new Int32Array(total);
  const positions = new Int32Array(total);
  const sequences = new Int32Array(total);
  const outputRows: number[] = [];
  const hiddenRows: number[] = [];
  const pageTables = Array.from({ length: groupCount }, () =>
    new Int32Array(parts.length * maxPages).fill(-1),
  );
  let at = 0;
  parts.forEach(({ sequence, count, outputs, hidden }, s) => {
    const from = sequence.computed + ahead;
    tokens.set(sequence.tokens.subarray(from, from + count), at);
    for (let i = 0; i < count; i++) {
      positions[at + i] = from + i;
      sequences[at + i] = s;
      if (outputs === "all" || (outputs === "last" && i === count - 1)) outputRows.push(at + i);
    }
    for (let i = hidden?.[0] ?? 0; i < (hidden?.[1] ?? 0); i++) hiddenRows.push(at + i);
    pageTables.forEach((table, g) => {
      table.set(sequence.tables[g]!.subarray(0, maxPages), s * maxPages);
    });
    at += count;
  });
  const recurrent = parts[0]!.sequence.stateSlot >= 0;
  return {
    tokens,
    positions,
    sequences,
    pageTables,
    ...(recurrent && { stateSlots: Int32Array.from(parts, ({ sequence }) => sequence.stateSlot) }),
    sequenceCount: parts.length,
    maxPages,
    outputRows: Int32Array.from(outputRows),
    ...(hiddenRows.length > 0 && { hiddenRows: Int32Array.from(hiddenRows) }),
  };
}

export function outputCount({ outputs, count }: Part): number {
  return outputs === "none" ? 0 : outputs === "last" ? 1 : count;
}
