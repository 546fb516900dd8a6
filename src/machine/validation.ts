/** What a validator leaves behind: score, receipt, drift and rollback signals; and the order of their verdicts. */
import { dispositions, driftStates, hooks, reasonCodes, rollbackPostures, workClasses } from "./contract.ts";
import { type Content, document } from "./documents.ts";
import { count, i32, listOf, oneOf, orNull, str, u16 } from "./fields.ts";

const work = oneOf(workClasses);
const disposition = oneOf(dispositions);

const challenged = {
  lane_id: str,
  validator_work_class: work,
  challenged_work_class: work,
  network_id: orNull(str),
  validator_run_id: str,
  challenged_run_id: str,
  window_id: str,
  assignment_id: str,
  challenge_id: str,
  validator_node_pubkey: str,
  challenged_node_pubkey: str,
  contribution_id: str,
  contribution_digest: str,
  artifact_manifest_digest: str,
};
const stageEvidence = {
  grouped_stage_execution_summary_path: orNull(str),
  grouped_stage_execution_summary_digest: orNull(str),
  grouped_stage_replay_evidence_path: orNull(str),
  grouped_stage_replay_evidence_digest: orNull(str),
};
const verdict = {
  verified_hooks: listOf(oneOf(hooks)),
  disposition,
  reason_codes: listOf(oneOf(reasonCodes)),
  score_bps: u16,
};

export const scoreArtifact = document(
  "psionic.train.validator_score_artifact.v1",
  {
    ...challenged,
    artifact_count: count,
    ...stageEvidence,
    checkpoint_pointer_state: orNull(str),
    checkpoint_manifest_digest: orNull(str),
    checkpoint_object_digest: orNull(str),
    validation_index: count,
    ...verdict,
    detail: str,
    score_digest: str,
  },
  { field: "score_digest", prefix: "psionic_train_validator_score_artifact|" },
);
export type ScoreArtifact = Content<typeof scoreArtifact>;

export const scoreReceipt = document(
  "psionic.train.validator_score_receipt.v1",
  {
    ...challenged,
    ...stageEvidence,
    validation_index: count,
    ...verdict,
    score_artifact_path: str,
    score_artifact_digest: str,
    detail: str,
    score_receipt_digest: str,
  },
  { field: "score_receipt_digest", prefix: "psionic_train_validator_score_receipt|" },
);
export type ScoreReceipt = Content<typeof scoreReceipt>;

const signal = {
  lane_id: str,
  network_id: orNull(str),
  validator_run_id: str,
  challenged_run_id: str,
  challenged_work_class: work,
  current_window_id: str,
  current_assignment_id: str,
  current_challenge_id: str,
  validation_index: count,
  validator_score_receipt_path: str,
  validator_score_receipt_digest: str,
};

export const qualityDriftSignal = document(
  "psionic.train.validator_quality_drift_signal.v1",
  {
    ...signal,
    previous_validation_index: orNull(count),
    previous_window_id: orNull(str),
    previous_assignment_id: orNull(str),
    previous_challenge_id: orNull(str),
    previous_score_bps: orNull(u16),
    previous_disposition: orNull(disposition),
    current_score_bps: u16,
    current_disposition: disposition,
    score_bps_delta: orNull(i32),
    trailing_window_count: count,
    degraded_window_count: count,
    non_accepted_window_count: count,
    drift_state: oneOf(driftStates),
    detail: str,
    drift_signal_digest: str,
  },
  { field: "drift_signal_digest", prefix: "psionic_train_validator_quality_drift_signal|" },
);

export const rollbackSignal = document(
  "psionic.train.validator_rollback_signal.v1",
  {
    ...signal,
    quality_drift_signal_path: str,
    quality_drift_signal_digest: str,
    rollback_posture: oneOf(rollbackPostures),
    degraded_window_count: count,
    consecutive_non_accepted_window_count: count,
    rollback_baseline_validation_index: orNull(count),
    rollback_baseline_window_id: orNull(str),
    rollback_baseline_assignment_id: orNull(str),
    rollback_baseline_challenge_id: orNull(str),
    rollback_baseline_score_bps: orNull(u16),
    rollback_baseline_disposition: orNull(disposition),
    detail: str,
    rollback_signal_digest: str,
  },
  { field: "rollback_signal_digest", prefix: "psionic_train_validator_rollback_signal|" },
);

/** What drift is judged by. */
export type Scored = Pick<ScoreReceipt, "disposition" | "score_bps" | "validation_index">;

/** From best to worst at one score. */
const severity = ["accepted", "quarantined", "replay_required", "rejected"] as const;

/** How `current` stands against `previous`. */
export function comparison(previous: Scored, current: Scored): "improved" | "regressed" | "stable" {
  const better = current.score_bps - previous.score_bps;
  const milder = severity.indexOf(previous.disposition) - severity.indexOf(current.disposition);
  const change = better !== 0 ? better : milder;
  return change > 0 ? "improved" : change < 0 ? "regressed" : "stable";
}

/** Trends over earlier receipts (by index) and the current one. */
export function trend<T extends Scored>(priors: readonly T[], current: Scored) {
  const previous = priors.at(-1);
  const sequence: readonly Scored[] = [...priors, current];
  const degraded = sequence.filter(
    (receipt, i) => i > 0 && comparison(sequence[i - 1]!, receipt) === "regressed",
  );
  const drift = previous ? comparison(previous, current) : "baseline";
  const baseline = priors.findLast((receipt) => receipt.disposition === "accepted");
  const lastAccepted = priors.findLastIndex((receipt) => receipt.disposition === "accepted");
  return {
    previous,
    drift,
    delta: previous ? current.score_bps - previous.score_bps : null,
    trailing: sequence.length,
    degraded: degraded.length,
    nonAccepted: sequence.filter((receipt) => receipt.disposition !== "accepted").length,
    consecutive: priors.length - 1 - lastAccepted + (current.disposition === "accepted" ? 0 : 1),
    baseline,
    posture: baseline && drift === "regressed" ? "candidate" : "hold",
  } as const;
}
