import type { Part } from "./assemble.ts";
import type { StartedStep } from "./batch.ts";
import { pageSize } from "./pages.ts";
import type { PrefixTree, TreeGroup } from "./prefix_tree.ts";
import { sampledOnDevice } from "./sample_record.ts";
import { remembersTokens } from "./sampling_settings.ts";
import type { Sequence } from "./sequence.ts";

/** A step that the device was given and whose results have not been taken in. */
export type RunningStep = { readonly parts: readonly Part[]; readonly step: StartedStep };

/** The caches behind sequences, and whether they have recurrent states. */
export type AheadCaches = {
  readonly groups: readonly TreeGroup[];
  readonly tree: PrefixTree;
  readonly recurrent: boolean;
};

/** Parts of a step whose tokens are known to the device alone, and for each the row of the step before that chooses it. */
export type Following = { readonly parts: readonly Part[]; readonly follows: Int32Array };

/**
 * The step behind one that runs, before its tokens are known: one token of every active sequence but those whose last
 * token is under way. Undefined where the host has to see a token first: for a grammar, for penalties, for a state that
 * is kept as it is now, or because pages have run out.
 *
 * A sequence that turns out to have ended computes one position too many: behind the whole pages that stay cached, in a
 * page that nobody is given before that step, since the device works in order. Its token is dropped.
 */
export function followingParts(
  running: readonly Part[],
  active: readonly Sequence[],
  { groups, tree, recurrent }: AheadCaches,
): Following | undefined {
  const rows = new Map(running.map((part, row) => [part.sequence, row]));
  const parts: Part[] = [];
  const follows: number[] = [];
  for (const sequence of active) {
    const row = rows.get(sequence);
    if (row === undefined || !runsAhead(running[row]!)) return undefined;
    if (sequence.length + 1 >= sequence.request.limit) continue;
    if (recurrent && (sequence.computed + 1) % pageSize === 0) return undefined;
    if (!sequence.extend(groups, tree, 2)) return undefined;
    parts.push({ sequence, count: 1, outputs: "last" });
    follows.push(row);
  }
  return parts.length > 0 ? { parts, follows: Int32Array.from(follows) } : undefined;
}

function runsAhead({ sequence, count, outputs }: Part): boolean {
  const { settings } = sequence.sampler;
  const generates = sequence.promptDone && count === 1 && outputs === "last" && sequence.pending === 1;
  return generates && !sequence.constraint && sampledOnDevice(settings) && !remembersTokens(settings);
}
