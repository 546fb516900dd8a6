/** Documents of the actual lane that only it reads and writes. */
import { dirtyTreeAdmissions, operations } from "../contract.ts";
import { type Content, document } from "../documents.ts";
import { bool, count, digest, filled, oneOf, orNull, str } from "../fields.ts";

/** What a checkpoint came to when its state was run on text; losses are nats a token, 32-bit floats as text. */
export const evalDecision = document(
  "psion.actual_pretraining_checkpoint_eval_decision.v1",
  {
    ...{ lane_id: filled, run_id: filled, checkpoint_label: str, optimizer_step: count },
    ...{ checkpoint_ref: filled, checkpoint_object_digest: digest, lane_profile_digest: digest },
    /** On text that no step reads; null where the profile trains on all there is. */
    validation_loss: orNull(str),
    /** On text that the steps read, where nothing else is there. */
    trained_text_loss: orNull(str),
    evaluated_tokens: count,
    /** Of a guess that gives every token the same chance. */
    uniform_loss: str,
    /** Of the last window that was trained in the run root. */
    ...{ first_loss: str, last_loss: str },
    decision_state: oneOf(["continue", "hold_and_review"]),
    decision_reason: str,
    decision_digest: str,
  },
  { field: "decision_digest", prefix: "psion_actual_pretraining_checkpoint_eval_decision|" },
);
export type EvalDecision = Content<typeof evalDecision>;

const head = { lane_id: filled, run_id: filled };
/** The source that the process ran. */
const git = {
  ...{ selected_git_ref: str, git_commit_sha: str, dirty_tree_admission: oneOf(dirtyTreeAdmissions) },
  workspace_status_sha256: orNull(str),
};
const progress = { latest_checkpoint_label: str, last_completed_step: count };

export const phases = [
  "dry_run_planned",
  "launch_staged",
  "checkpoint_evaluated",
  "checkpoint_eval_retry_required",
  "checkpoint_backed_up",
  "checkpoint_backup_refused",
  "continue_decision_recorded",
  "restart_decision_recorded",
  "hold_decision_recorded",
  "resume_dry_run_planned",
  "resume_staged",
  "base_lane_rehearsal_complete",
] as const;

export const currentRunStatus = document("psion.actual_pretraining_current_run_status.v1", {
  ...{ ...head, phase: oneOf(phases), ...progress, updated_at_ms: count, detail: str },
});

export const retainedSummary = document("psion.actual_pretraining_retained_summary.v1", {
  ...{ ...head, last_known_phase: oneOf(phases), ...git, ...progress, claim_boundary: str, detail: str },
});

const launch = {
  ...{ ...head, operation: oneOf(operations), dry_run: bool, ...git, build_digest: str },
  ...{ checkpoint_label: str, optimizer_step: count },
  ...{ lane_profile_digest: digest, steps_per_window: count },
  ...{ hardware_observation_sha256: orNull(digest), run_shape_observation_sha256: orNull(digest) },
  claim_boundary: str,
};
export const launchManifest = document("psion.actual_pretraining_launch_manifest.v1", launch);
export const resumeManifest = document("psion.actual_pretraining_resume_manifest.v1", launch);

export const closeoutBundle = document("psion.actual_pretraining_closeout_bundle.v1", {
  ...{ ...head, outcome: oneOf(["open", "accepted"]) },
});

/** Why a recorded checkpoint could not be run; recording it again tries again. */
export const evalFailure = document("psion.actual_pretraining_checkpoint_eval_failure.v1", {
  ...{ ...head, checkpoint_label: str, optimizer_step: count },
  failure_kind: oneOf(["eval_worker_unavailable"]),
  resolution_state: oneOf(["retry_required"]),
  detail: str,
});

export const decisionStates = [
  "continue",
  "restart_from_last_accepted_checkpoint",
  "hold_and_investigate",
] as const;

export const continueRestartDecision = document("psion.actual_pretraining_continue_restart_decision.v1", {
  ...{ ...head, checkpoint_label: str, optimizer_step: count, decision_state: oneOf(decisionStates) },
  /** Of the last window; `none` where there is no evidence of one. */
  ...{ first_loss: str, last_loss: str, checkpoint_backed_up: bool },
  checkpoint_eval_decision_state: orNull(str),
  validation_loss: orNull(str),
});
