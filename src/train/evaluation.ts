/** A checkpoint run on held-out text, source by source, and what follows from the figures. */
import type { CheckpointLimits, RunParts } from "./lanes/lane.ts";
import type { Trainer } from "./trainer.ts";

/** Loss on one source, in nats per token over `tokens` of them. */
export type Measured = { readonly id: string; readonly loss: number; readonly tokens: number };

export function measureHeldOut(trainer: Trainer, { heldOut }: RunParts): Measured[] {
  return heldOut.map(({ id, windows }) => ({
    id,
    loss: trainer.evaluate(windows),
    tokens: windows.starts.length * windows.length,
  }));
}

/** The mean over all tokens. */
export function meanLoss(measured: readonly Measured[]): number {
  const tokens = measured.reduce((sum, m) => sum + m.tokens, 0);
  return measured.reduce((sum, m) => sum + m.loss * m.tokens, 0) / tokens;
}

export type Gate = Measured & {
  readonly thresholdBps: number;
  /** Share of the nats of a uniform guess over the vocabulary that the model saves, 0..10000; a loss that is no number: 0. */
  readonly observedBps: number;
  readonly passed: boolean;
};

export type EvalDecisionState = "continue" | "hold_and_review" | "restart_from_last_accepted_checkpoint";

export type Judged = {
  readonly gates: readonly Gate[];
  readonly passRateBps: number;
  readonly scoreBps: number;
  readonly state: EvalDecisionState;
  readonly reason: string;
};

export function shareBps(loss: number, vocabularySize: number): number {
  const share = Math.floor(10000 * (1 - loss / Math.log(vocabularySize)));
  return Number.isFinite(share) ? Math.min(10000, Math.max(0, share)) : 0;
}

/** All gates pass: continue; a mean share from the limit on: a person looks; else restart. */
export function judge(
  measured: readonly Measured[],
  vocabularySize: number,
  limits: CheckpointLimits,
): Judged {
  const gates = measured.map((m) => {
    const observedBps = shareBps(m.loss, vocabularySize);
    const thresholdBps = limits.heldOutShareBps;
    return { ...m, thresholdBps, observedBps, passed: observedBps >= thresholdBps };
  });
  const failed = gates.filter((g) => !g.passed).map((g) => g.id);
  const scoreBps = Math.floor(gates.reduce((sum, g) => sum + g.observedBps, 0) / gates.length);
  const passRateBps = Math.floor((10000 * (gates.length - failed.length)) / gates.length);
  if (failed.length === 0) {
    return { gates, passRateBps, scoreBps, state: "continue", reason: "Every source reaches its threshold." };
  }
  const below = `Below the threshold: ${failed.join(", ")}.`;
  const state =
    scoreBps >= limits.reviewScoreBps ? "hold_and_review" : "restart_from_last_accepted_checkpoint";
  return { gates, passRateBps, scoreBps, state, reason: below };
}
