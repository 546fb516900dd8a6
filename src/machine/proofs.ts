/** Proofs for weak devices: restatements of receipts that lie in the run root. */
import { dispositions, driftStates, hooks, rollbackPostures, workClasses } from "./contract.ts";
import { document } from "./documents.ts";
import { bool, exactly, listOf, oneOf, orNull, positive, record, str, u16 } from "./fields.ts";
import { stageAssignment } from "./manifest.ts";

const cited = listOf(record({ artifact_role: str, artifact_path: str, artifact_digest: str, detail: str }));
const head = { proof_id: str, lane_id: str, network_id: orNull(str) };
const tail = { cited_artifacts: cited, claim_boundary: str, detail: str, bundle_digest: str };

export const acceptedOutcomeProof = document(
  "psionic.train.weak_device_accepted_outcome_proof.v1",
  {
    ...head,
    carrier: record({
      contributor_run_id: str,
      contributor_node_pubkey: str,
      backend_family: str,
      topology_class: str,
      work_class: oneOf(workClasses),
      grouped_stage_assignment: stageAssignment,
      weak_device_bearing: bool,
      detail: str,
    }),
    window: record({
      network_id: orNull(str),
      window_id: str,
      assignment_id: str,
      window_execution_id: str,
      window_digest: str,
      sealed_window_digest: str,
      contribution_id: str,
      contribution_digest: str,
      artifact_manifest_digest: str,
      detail: str,
    }),
    validator: record({
      validator_run_id: str,
      challenge_id: str,
      validation_index: positive,
      validator_disposition: exactly("accepted"),
      validator_score_bps: u16,
      verified_hooks: listOf(oneOf(hooks)),
      quality_drift_state: oneOf(driftStates),
      rollback_posture: exactly("hold"),
      detail: str,
    }),
    checkpoint: record({
      checkpoint_label: str,
      checkpoint_ref: str,
      checkpoint_pointer_state: oneOf(["accepted", "accepted_primary"]),
      optimizer_step: positive,
      checkpoint_manifest_digest: str,
      checkpoint_object_digest: str,
      detail: str,
    }),
    ...tail,
  },
  { field: "bundle_digest", prefix: "psionic_train_weak_device_accepted_outcome_proof|" },
);

export const validationReplayProof = document(
  "psionic.train.weak_device_validation_replay_proof.v1",
  {
    ...head,
    validator_run_id: str,
    validator_node_pubkey: str,
    backend_family: str,
    topology_class: str,
    weak_device_bearing: bool,
    challenged_run_id: str,
    challenged_node_pubkey: str,
    challenged_work_class: oneOf(workClasses),
    window_id: str,
    assignment_id: str,
    challenge_id: str,
    contribution_id: str,
    contribution_digest: str,
    artifact_manifest_digest: str,
    public_count_class: exactly("validator_recognized_participation"),
    validator_disposition: oneOf(dispositions),
    validator_score_bps: u16,
    verified_hooks: listOf(oneOf(hooks)),
    quality_drift_state: oneOf(driftStates),
    rollback_posture: oneOf(rollbackPostures),
    ...tail,
  },
  { field: "bundle_digest", prefix: "psionic_train_weak_device_validation_replay_proof|" },
);
