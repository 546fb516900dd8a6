/** The replay's own proof on the lane of weak devices: it restates receipts that lie beside it. */
import { appleLane } from "./contract.ts";
import { type Content, sealed } from "./documents.ts";
import { contributionFolder, replayProofName } from "./layout.ts";
import { validationReplayProof } from "./proofs.ts";
import type { Target } from "./replay_target.ts";
import type { Invocation } from "./surfaces.ts";
import type { qualityDriftSignal, rollbackSignal, ScoreReceipt } from "./validation.ts";

/** What a verdict left, with the paths of its files below the run root. */
export type Signed = {
  readonly folder: string;
  readonly scored: ScoreReceipt;
  readonly drift: Content<typeof qualityDriftSignal>;
  readonly rollback: Content<typeof rollbackSignal>;
};

/** Writes it for an accepted contribution of that lane whose run is not getting worse; else there is none. */
export function writeReplayProof(invocation: Invocation, target: Target, signed: Signed): void {
  const { root, lane, capability } = invocation;
  const { scored, drift, rollback, folder } = signed;
  const path = `${folder}/${replayProofName}`;
  const accepted = scored.disposition === "accepted" && scored.score_bps === 10000;
  const steady = drift.drift_state !== "regressed" && rollback.rollback_posture === "hold";
  if (lane !== appleLane || !accepted || !steady) return;
  const { lane_id, network_id, validator_run_id, validator_node_pubkey, challenged_run_id } = scored;
  root.write(
    path,
    sealed(validationReplayProof, {
      proof_id: `weak-device-validation-replay:${lane_id}:${scored.window_id}:${scored.challenge_id}`,
      ...{ lane_id, network_id, validator_run_id, validator_node_pubkey },
      ...{ backend_family: capability.backend_family, topology_class: capability.topology_class },
      // what stands in for the device is none
      weak_device_bearing: capability.backend_family === lane.backend,
      ...{ challenged_run_id, challenged_node_pubkey: scored.challenged_node_pubkey },
      challenged_work_class: scored.challenged_work_class,
      ...{ window_id: scored.window_id, assignment_id: scored.assignment_id },
      ...{ challenge_id: scored.challenge_id, contribution_id: scored.contribution_id },
      contribution_digest: scored.contribution_digest,
      artifact_manifest_digest: scored.artifact_manifest_digest,
      public_count_class: "validator_recognized_participation",
      ...{ validator_disposition: scored.disposition, validator_score_bps: scored.score_bps },
      verified_hooks: scored.verified_hooks,
      ...{ quality_drift_state: drift.drift_state, rollback_posture: rollback.rollback_posture },
      cited_artifacts: citations(target, signed),
      claim_boundary:
        "One contribution, its replay and its checkpoint; nothing about the network or a payout.",
      detail: "Restates the receipts that it cites.",
    }),
  );
}

/** Paths are below the run root of whoever wrote the file. */
function citations({ receipt, listed }: Target, { folder, scored, drift, rollback }: Signed) {
  const contribution = contributionFolder(receipt.window_id, receipt.contribution_id);
  const cited: (readonly [role: string, path: string, digest: string])[] = [
    ["contribution_receipt", `${contribution}/contribution_receipt.json`, receipt.contribution_digest],
    [
      "contribution_artifact_manifest",
      `${contribution}/artifact_manifest.json`,
      listed.artifact_manifest_digest,
    ],
    ["validator_score_artifact", scored.score_artifact_path, scored.score_artifact_digest],
    ["validator_score_receipt", drift.validator_score_receipt_path, scored.score_receipt_digest],
    ["validator_quality_drift_signal", rollback.quality_drift_signal_path, drift.drift_signal_digest],
    [
      "validator_rollback_signal",
      `${folder}/validator_rollback_signal.json`,
      rollback.rollback_signal_digest,
    ],
  ];
  const { grouped_stage_execution_summary_path: summary, grouped_stage_replay_evidence_path: replay } =
    scored;
  if (summary !== null && replay !== null)
    cited.push(
      ["grouped_stage_replay_evidence", replay, scored.grouped_stage_replay_evidence_digest ?? ""],
      ["grouped_stage_execution_summary", summary, scored.grouped_stage_execution_summary_digest ?? ""],
    );
  return cited.map(([artifact_role, artifact_path, artifact_digest]) => ({
    ...{ artifact_role, artifact_path, artifact_digest },
    detail: "Below the run root of whoever wrote it.",
  }));
}
