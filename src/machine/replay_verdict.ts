/** A verdict in the validator's run root: grounds, score, receipt, and the signals that follow from earlier verdicts. */
import { basename } from "node:path";
import { type Content, sealed } from "./documents.ts";
import { reexecutionName, replayProofName, stageReplayName, validatorFolder } from "./layout.ts";
import type { Reexecution } from "./reexecution.ts";
import { foundFile, replayed, verdictFiles } from "./replay_inputs.ts";
import { type Signed, writeReplayProof } from "./replay_proof.ts";
import type { StageEvidence } from "./replay_stage.ts";
import type { Target } from "./replay_target.ts";
import { stageReplayEvidence } from "./stage_documents.ts";
import type { Invocation } from "./surfaces.ts";
import {
  qualityDriftSignal,
  rollbackSignal,
  type ScoreReceipt,
  scoreArtifact,
  scoreReceipt,
  trend,
} from "./validation.ts";
import type { ContributionReceipt } from "./window.ts";

export type Verdict = Pick<ScoreReceipt, "disposition" | "score_bps" | "reason_codes" | "verified_hooks"> & {
  /** Present where work was done again. */
  readonly redone?: { readonly document: Reexecution; readonly told: string };
  /** Present for grouped work. */
  readonly stage?: StageEvidence;
};

/** Earlier verdicts on the same run and kind of work, this challenge's own left out. */
function priorReceipts({ root, manifest, lane }: Invocation, receipt: ContributionReceipt): ScoreReceipt[] {
  const { window_id, assignment_id, challenge_id } = manifest.coordination;
  const found = verdictFiles(root, "validator_score_receipt.json").map((path) =>
    replayed(scoreReceipt, foundFile(root.path(path))),
  );
  return found
    .filter(
      (r) =>
        r.lane_id === lane.id &&
        r.challenged_run_id === receipt.run_id &&
        r.challenged_work_class === receipt.work_class &&
        !(r.window_id === window_id && r.assignment_id === assignment_id && r.challenge_id === challenge_id),
    )
    .sort((a, b) => a.validation_index - b.validation_index);
}

/** Writes all of it, the grounds first: whoever reads a score finds them. */
export function writeVerdict(invocation: Invocation, target: Target, verdict: Verdict): void {
  const { root, manifest, lane } = invocation;
  const { receipt, listed, surface } = target;
  const { window_id, assignment_id, challenge_id, network_id, node_pubkey } = manifest.coordination;
  const [window, assignment, challenge] = [window_id ?? "", assignment_id ?? "", challenge_id ?? ""];
  const priors = priorReceipts(invocation, receipt);
  const validation_index = (priors.at(-1)?.validation_index ?? 0) + 1;
  const folder = validatorFolder(window, challenge);
  const { redone, stage, ...judged } = verdict;
  const runs = {
    validator_run_id: manifest.run_id ?? basename(root.root),
    challenged_run_id: receipt.run_id,
  };
  const challenged = {
    ...{
      lane_id: lane.id,
      validator_work_class: manifest.work_class,
      challenged_work_class: receipt.work_class,
    },
    ...{ network_id, ...runs, window_id: window, assignment_id: assignment, challenge_id: challenge },
    ...{ validator_node_pubkey: node_pubkey ?? "", challenged_node_pubkey: receipt.node_pubkey },
    ...{ contribution_id: receipt.contribution_id, contribution_digest: receipt.contribution_digest },
    artifact_manifest_digest: listed.artifact_manifest_digest,
  };
  const detail = `${judged.disposition} with ${judged.score_bps}.`;
  // what an earlier verdict on this challenge left must not stand beside this one
  for (const name of [reexecutionName, stageReplayName, replayProofName]) root.remove(`${folder}/${name}`);
  if (redone) root.write(`${folder}/${reexecutionName}`, redone.document);
  const grouped = stageFields(
    stage,
    `${folder}/${stageReplayName}`,
    stage &&
      sealed(stageReplayEvidence, {
        ...challenged,
        grouped_stage_assignment: stage.stage,
        execution_summary_path: stage.summaryPath,
        execution_summary_digest: stage.summary.execution_summary_digest,
        input_transport_digest: stage.summary.input_transport_digest,
        output_transport_digest: stage.summary.output_transport_digest,
        ...{ disposition: judged.disposition, reason_codes: judged.reason_codes },
        ...{ score_bps: judged.score_bps, detail },
      }),
  );
  if (grouped.evidence) root.write(`${folder}/${stageReplayName}`, grouped.evidence);
  const artifactPath = `${folder}/validator_score_artifact.json`;
  const artifact = sealed(scoreArtifact, {
    ...challenged,
    ...grouped.fields,
    artifact_count: listed.artifact_count,
    checkpoint_pointer_state:
      stage && judged.disposition === "rejected" ? null : (surface?.pointer_state ?? null),
    checkpoint_manifest_digest: surface?.checkpoint_manifest_digest ?? null,
    checkpoint_object_digest: surface?.checkpoint_object_digest ?? null,
    ...{ validation_index, ...judged, detail },
  });
  root.write(artifactPath, artifact);
  const scored = sealed(scoreReceipt, {
    ...challenged,
    ...grouped.fields,
    ...{ validation_index, ...judged, detail },
    ...{ score_artifact_path: artifactPath, score_artifact_digest: artifact.score_digest },
  });
  const scorePath = `${folder}/validator_score_receipt.json`;
  root.write(scorePath, scored);
  writeReplayProof(invocation, target, writeSignals(invocation, folder, scorePath, scored, priors));
}

/** The four fields by which scores name a stage's evidence; null where there is no stage. */
function stageFields(
  stage: StageEvidence | undefined,
  path: string,
  evidence: Content<typeof stageReplayEvidence> | undefined,
) {
  return {
    evidence,
    fields: {
      grouped_stage_execution_summary_path: stage?.summaryPath ?? null,
      grouped_stage_execution_summary_digest: stage?.summary.execution_summary_digest ?? null,
      grouped_stage_replay_evidence_path: evidence ? path : null,
      grouped_stage_replay_evidence_digest: evidence?.replay_evidence_digest ?? null,
    },
  };
}

function writeSignals(
  { root }: Invocation,
  folder: string,
  scorePath: string,
  scored: ScoreReceipt,
  priors: readonly ScoreReceipt[],
): Signed {
  const t = trend(priors, scored);
  const signal = {
    ...{ lane_id: scored.lane_id, network_id: scored.network_id, validator_run_id: scored.validator_run_id },
    ...{ challenged_run_id: scored.challenged_run_id, challenged_work_class: scored.challenged_work_class },
    ...{ current_window_id: scored.window_id, current_assignment_id: scored.assignment_id },
    ...{ current_challenge_id: scored.challenge_id, validation_index: scored.validation_index },
    validator_score_receipt_path: scorePath,
    validator_score_receipt_digest: scored.score_receipt_digest,
  };
  const drift = sealed(qualityDriftSignal, {
    ...signal,
    previous_validation_index: t.previous?.validation_index ?? null,
    previous_window_id: t.previous?.window_id ?? null,
    previous_assignment_id: t.previous?.assignment_id ?? null,
    previous_challenge_id: t.previous?.challenge_id ?? null,
    previous_score_bps: t.previous?.score_bps ?? null,
    previous_disposition: t.previous?.disposition ?? null,
    ...{
      current_score_bps: scored.score_bps,
      current_disposition: scored.disposition,
      score_bps_delta: t.delta,
    },
    ...{ trailing_window_count: t.trailing, degraded_window_count: t.degraded },
    ...{ non_accepted_window_count: t.nonAccepted, drift_state: t.drift },
    detail: `Against the verdict before: ${t.drift}.`,
  });
  const driftPath = `${folder}/validator_quality_drift_signal.json`;
  root.write(driftPath, drift);
  const rollback = sealed(rollbackSignal, {
    ...signal,
    ...{ quality_drift_signal_path: driftPath, quality_drift_signal_digest: drift.drift_signal_digest },
    ...{ rollback_posture: t.posture, degraded_window_count: t.degraded },
    consecutive_non_accepted_window_count: t.consecutive,
    rollback_baseline_validation_index: t.baseline?.validation_index ?? null,
    rollback_baseline_window_id: t.baseline?.window_id ?? null,
    rollback_baseline_assignment_id: t.baseline?.assignment_id ?? null,
    rollback_baseline_challenge_id: t.baseline?.challenge_id ?? null,
    rollback_baseline_score_bps: t.baseline?.score_bps ?? null,
    rollback_baseline_disposition: t.baseline?.disposition ?? null,
    detail: `Posture ${t.posture}; nothing is rolled back by this.`,
  });
  root.write(`${folder}/validator_rollback_signal.json`, rollback);
  return { folder, scored, drift, rollback };
}
