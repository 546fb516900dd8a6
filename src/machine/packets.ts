/** Status packets: one printed, two kept in the run root. */
import type * as v from "valibot";
import {
  type InvocationOutcome,
  operations,
  outcomes,
  owners,
  type RefusalClass,
  refusalClasses,
  refusals,
  roles,
  runtimeSurfaceId,
  workClasses,
} from "./contract.ts";
import { type Content, document } from "./documents.ts";
import { bool, oneOf, orNull, record, str, u8 } from "./fields.ts";
import { attestation, capability } from "./identity.ts";
import {
  coordinationFields,
  emptyCoordination,
  type InvocationManifest,
  stageAssignment,
} from "./manifest.ts";

/** How a run ended, as all packets and the contribution say it. */
const outcomeFields = {
  outcome: oneOf(outcomes),
  exit_code: u8,
  retryable: bool,
  authority_owner: oneOf(owners),
  refusal_class: orNull(oneOf(refusalClasses)),
};

const asked = {
  runtime_surface_id: str,
  lane_id: str,
  role: oneOf(roles),
  operation: oneOf(operations),
  work_class: oneOf(workClasses),
  ...outcomeFields,
};

const optionalStage = orNull(stageAssignment);
const optionalTarget = orNull(oneOf(workClasses));

export const statusPacket = document("psionic.train.status_packet.v1", {
  ...asked,
  manifest_path: orNull(str),
  manifest_digest: orNull(str),
  coordination: coordinationFields,
  grouped_stage_assignment: optionalStage,
  validator_target_work_class: optionalTarget,
  runtime_attestation: orNull(attestation),
  capability_projection: orNull(capability),
  run_id: orNull(str),
  run_root: orNull(str),
  run_status_packet_path: orNull(str),
  window_status_packet_path: orNull(str),
  current_status_path: orNull(str),
  retained_summary_path: orNull(str),
  latest_checkpoint_pointer_path: orNull(str),
  launcher_log_path: orNull(str),
  detail: str,
});
export type StatusPacket = Content<typeof statusPacket>;

/** Files that the kept packets cite; the status packets are where absolute paths stand. */
export const artifactPathNames = [
  "launch_manifest_path",
  "membership_revision_path",
  "window_execution_path",
  "contribution_receipt_path",
  "contribution_artifact_manifest_path",
  "grouped_stage_input_transport_path",
  "grouped_stage_output_transport_path",
  "grouped_stage_output_payload_path",
  "grouped_stage_execution_summary_path",
  "grouped_stage_replay_evidence_path",
  "checkpoint_surface_path",
  "checkpoint_pointer_path",
  "checkpoint_manifest_path",
  "checkpoint_backup_receipt_path",
  "checkpoint_handoff_receipt_path",
  "recovery_receipt_path",
  "validator_score_receipt_path",
  "validator_quality_drift_signal_path",
  "validator_rollback_signal_path",
  "weak_device_validation_replay_proof_path",
  "sealed_window_bundle_path",
  "final_closeout_bundle_path",
] as const;
export type ArtifactPathName = (typeof artifactPathNames)[number];

const path = orNull(str);
type PathFields = Readonly<Record<ArtifactPathName, typeof path>>;
export const artifactPaths = record(
  Object.fromEntries(artifactPathNames.map((name) => [name, path])) as PathFields,
);
export type ArtifactPaths = v.InferOutput<typeof artifactPaths>;

export function artifactPathsOf(known: Partial<ArtifactPaths>): ArtifactPaths {
  const paths = Object.fromEntries(artifactPathNames.map((name) => [name, known[name] ?? null]));
  return paths as ArtifactPaths;
}

export const runStatusPacket = document("psionic.train.run_status_packet.v1", {
  ...asked,
  coordination: coordinationFields,
  grouped_stage_assignment: optionalStage,
  validator_target_work_class: optionalTarget,
  manifest_path: orNull(str),
  manifest_digest: orNull(str),
  run_id: orNull(str),
  run_root: orNull(str),
  phase: orNull(str),
  runtime_attestation: attestation,
  capability_projection: capability,
  artifacts: artifactPaths,
  current_status_path: orNull(str),
  retained_summary_path: orNull(str),
  launcher_log_path: orNull(str),
  detail: str,
});

export const windowStatusPacket = document("psionic.train.window_status_packet.v1", {
  ...asked,
  coordination: coordinationFields,
  grouped_stage_assignment: optionalStage,
  validator_target_work_class: optionalTarget,
  manifest_digest: orNull(str),
  run_id: orNull(str),
  run_root: orNull(str),
  window_state: orNull(str),
  runtime_attestation: attestation,
  capability_projection: capability,
  artifacts: artifactPaths,
  detail: str,
});

export type Outcome = {
  readonly outcome: InvocationOutcome;
  readonly exit_code: number;
  readonly retryable: boolean;
  readonly authority_owner: (typeof owners)[number];
  readonly refusal_class: RefusalClass | null;
};

export const succeeded: Outcome = {
  ...{ outcome: "succeeded", exit_code: 0, retryable: false },
  ...{ authority_owner: "pylon", refusal_class: null },
};

export function refusedAs(refusalClass: RefusalClass): Outcome {
  const { exitCode, retryable, owner } = refusals[refusalClass];
  return {
    ...{ outcome: "refused", exit_code: exitCode, retryable },
    ...{ authority_owner: owner, refusal_class: refusalClass },
  };
}

/** What packets repeat of the manifest; without one they carry defaults that say nothing about the request. */
export function askedOf(manifest: InvocationManifest | undefined, outcome: Outcome) {
  return {
    runtime_surface_id: runtimeSurfaceId,
    lane_id: manifest?.lane_id ?? "psion_actual_pretraining_v1",
    role: manifest?.role ?? "worker",
    operation: manifest?.operation ?? "start",
    work_class: manifest?.work_class ?? "full_island_local_update_training",
    ...outcome,
    coordination: manifest?.coordination ?? emptyCoordination,
    grouped_stage_assignment: manifest?.grouped_stage_assignment ?? null,
    validator_target_work_class: manifest?.validator_target_work_class ?? null,
    manifest_digest: manifest?.manifest_digest ?? null,
  } as const;
}
