/** `validate_contribution`: the evidence is checked, the work is done again, and a verdict is left in the run root. */
import { appleLane, refuse } from "./contract.ts";
import { type LaneWork, redoneWork } from "./replay_grounds.ts";
import { checkStageEvidence, type StageEvidence } from "./replay_stage.ts";
import { hangsInTheAir } from "./replay_start.ts";
import { checkAgreement, readTarget, type Target } from "./replay_target.ts";
import { type Verdict, writeVerdict } from "./replay_verdict.ts";
import type { CheckpointSurface } from "./surface.ts";
import type { Invocation } from "./surfaces.ts";
import type { ContributionReceipt } from "./window.ts";

/** Checks, does the work again where that is called for, and leaves the verdict; a sentence that ends with it. */
export function validateContribution(invocation: Invocation, work: LaneWork): string {
  const begun = performance.now();
  // a proof names the validator's run, so that is asked for before there is anything to prove
  if (invocation.lane === appleLane && invocation.manifest.run_id === null)
    return refuse("bad_config", "validation on this lane needs run_id");
  const target = readTarget(invocation);
  checkAgreement(invocation, target);
  const grouped = target.receipt.work_class === "grouped_replica_stage_execution";
  const stage = grouped ? checkStageEvidence(target) : undefined;
  const judged = judge(invocation, target, work, stage, begun);
  const verdict = stage ? ofStage(judged, stage) : judged;
  writeVerdict(invocation, target, verdict);
  const { disposition, score_bps, redone } = verdict;
  const grounds = redone === undefined ? "" : ` after doing ${redone.told}`;
  return `Contribution ${target.receipt.contribution_id} was ${disposition} with ${score_bps}${grounds}`;
}

/** The stage's evidence held, or there would be no verdict; a rejected one is not praised for it. */
function ofStage(verdict: Verdict, stage: StageEvidence): Verdict {
  const code = verdict.disposition === "rejected" ? [] : (["grouped_stage_evidence_verified"] as const);
  return {
    ...verdict,
    reason_codes: [...verdict.reason_codes, ...code],
    verified_hooks: [...verdict.verified_hooks, "grouped_stage_integrity"],
    stage,
  };
}

/** Only hooks whose checks ran are listed. */
function judge(
  invocation: Invocation,
  target: Target,
  work: LaneWork,
  stage: StageEvidence | undefined,
  begun: number,
): Verdict {
  const { receipt, surface, evidence } = target;
  const consistent = ["assignment_correctness", "update_integrity"] as const;
  if (receipt.outcome === "refused" || !surface) {
    const reason_codes = ["contribution_outcome_refused" as const];
    return { disposition: "rejected", score_bps: 0, reason_codes, verified_hooks: [...consistent] };
  }
  const hooks = [...consistent, "checkpoint_lineage" as const];
  const failed = [surface.upload_outcome, surface.recovery_resolution_state].some(
    (state) => state === "refused" || state === "failed",
  );
  if (failed) {
    const reason_codes = ["checkpoint_replay_required" as const];
    return { disposition: "replay_required", score_bps: 5000, reason_codes, verified_hooks: hooks };
  }
  if (!evidence) return withoutWork(receipt, surface, hooks);
  const redone = redoneWork(invocation, { ...target, evidence, surface }, work, stage, begun);
  const done = { verified_hooks: [...hooks, "work_execution_plausibility" as const], redone };
  if (redone.document.difference_count > 0)
    return { disposition: "rejected", score_bps: 0, reason_codes: ["reexecution_mismatch"], ...done };
  // what is accepted is the end of the work, not a checkpoint from before it
  const ended = surface.checkpoint_object_digest === evidence.checkpoint_object_digest;
  if (!ended || !isClean(surface) || hangsInTheAir(redone.document))
    return { disposition: "quarantined", score_bps: 7500, reason_codes: ["checkpoint_recovered"], ...done };
  return {
    disposition: "accepted",
    score_bps: 10000,
    reason_codes: ["primary_checkpoint_accepted"],
    ...done,
  };
}

function isClean(surface: CheckpointSurface): boolean {
  const recovered = ![null, "none", "primary_pointer"].includes(surface.recovery_source_kind);
  const accepted = surface.pointer_state === "accepted" || surface.pointer_state === "accepted_primary";
  return accepted && !recovered && surface.restored_primary_pointer !== true;
}

/** A recovery trains nothing and can at best be quarantined; whatever else comes without evidence cannot be judged. */
function withoutWork(
  receipt: ContributionReceipt,
  surface: CheckpointSurface,
  verified_hooks: Verdict["verified_hooks"],
): Verdict {
  if (receipt.role !== "recovery_source" || isClean(surface))
    return refuse("artifact_incomplete", "a succeeded contribution without execution_evidence");
  return {
    ...{ disposition: "quarantined", score_bps: 7500, reason_codes: ["checkpoint_recovered"] },
    verified_hooks,
  };
}
