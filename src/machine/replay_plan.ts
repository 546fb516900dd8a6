/** Which part of a window is done again. */
import { sha256 } from "../core/digest.ts";
import type { Segment } from "./window_replayer.ts";

export type ReplayPlan = {
  readonly mode: "full" | "sampled";
  /** In order of steps. */
  readonly drawn: readonly Segment[];
  readonly segmentCount: number;
  /** Chance that any one step is done again, millionths; the same for all of them. */
  readonly chancePpm: number;
};

/** Windows of at most so many steps are done again in full where nothing else is asked for. */
export const fullWindow = 16;

/** Part of the segments that is drawn where nothing else is asked for: at least the first, at most the second. */
const [leastShare, mostShare] = [0.25, 0.27];

/**
 * Draws whole segments, so that every step has the same chance to be among them and the state at a segment's end shows
 * whatever went wrong on the way. `steps`: how many to do again at least.
 */
export function replayPlan(
  segments: readonly Segment[],
  secret: { readonly challengeId: string; readonly contributionDigest: string; readonly nonce: string },
  steps?: number | "all",
): ReplayPlan {
  const total = stepsOf(segments).length;
  const all = segments.length;
  const wanted = wantedSegments(all, total, steps);
  if (wanted >= all) return { mode: "full", drawn: segments, segmentCount: all, chancePpm: 1_000_000 };
  const { challengeId, contributionDigest, nonce } = secret;
  const lot = (i: number): string =>
    sha256(`psionic_train_replay_draw|${challengeId}|${contributionDigest}|${nonce}|${i}`);
  const lots = segments.map((segment, i) => ({ segment, lot: lot(i) }));
  lots.sort((a, b) => (a.lot < b.lot ? -1 : 1));
  const drawn = lots.slice(0, wanted).map(({ segment }) => segment);
  drawn.sort((a, b) => a.first - b.first);
  const chancePpm = Math.floor((1_000_000 * wanted) / all);
  return { mode: "sampled", drawn, segmentCount: all, chancePpm };
}

function wantedSegments(all: number, total: number, steps: number | "all" | undefined): number {
  if (steps === "all" || (steps === undefined && total <= fullWindow)) return all;
  if (steps !== undefined) return Math.min(all, Math.ceil((all * steps) / total));
  return Math.max(Math.ceil(all * leastShare), Math.floor(all * mostShare));
}

export const stepsOf = (segments: readonly Segment[]): number[] =>
  segments.flatMap(({ first, last }) => Array.from({ length: last - first + 1 }, (_, i) => first + i));
