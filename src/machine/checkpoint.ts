/** Checkpoint pointers, manifests and receipts: the generic family and the actual lane's own. */
import { dirtyTreeAdmissions } from "./contract.ts";
import { type Content, document } from "./documents.ts";
import { bool, count, filled, listOf, maybe, oneOf, orNull, positive, record, str, u64 } from "./fields.ts";
import { binding, stageAssignment } from "./manifest.ts";

const head = { lane_id: filled, run_id: filled };
/** Window and assignment come together or not at all. */
const windowOfRun = {
  window_id: maybe(filled),
  assignment_id: maybe(filled),
  grouped_stage_assignment: maybe(stageAssignment),
};

export const checkpointPointer = document("psionic.train.checkpoint_pointer.v1", {
  ...head,
  ...windowOfRun,
  pointer_state: oneOf(["accepted", "accepted_primary"]),
  checkpoint_label: filled,
  optimizer_step: positive,
  checkpoint_ref: filled,
  checkpoint_manifest_relative_path: filled,
  detail: filled,
});
export type CheckpointPointer = Content<typeof checkpointPointer>;

export const checkpointManifest = document(
  "psionic.train.checkpoint_manifest.v1",
  {
    ...head,
    ...windowOfRun,
    checkpoint_label: filled,
    optimizer_step: positive,
    checkpoint_ref: filled,
    relative_manifest_path: filled,
    checkpoint_object_digest: filled,
    checkpoint_total_bytes: positive,
    manifest_digest: str,
  },
  { field: "manifest_digest", prefix: "psionic_train_checkpoint_manifest|" },
);
export type CheckpointManifest = Content<typeof checkpointManifest>;

/** The actual lane's family. */
const actual = (name: string) => `psion.actual_pretraining_${name}.v1` as const;
const gitFields = {
  selected_git_ref: filled,
  git_commit_sha: str,
  dirty_tree_admission: oneOf(dirtyTreeAdmissions),
  workspace_status_sha256: orNull(str),
};

export const actualPointer = document(actual("checkpoint_pointer"), {
  ...head,
  pointer_state: oneOf(["pending_first_checkpoint", "accepted"]),
  checkpoint_label: str,
  optimizer_step: count,
  checkpoint_ref: orNull(str),
  checkpoint_manifest_relative_path: orNull(str),
  detail: str,
});
export type ActualPointer = Content<typeof actualPointer>;

export const actualManifest = document(
  actual("checkpoint_manifest"),
  {
    lane_id: filled,
    recipe_id: str,
    run_id: filled,
    checkpoint_label: filled,
    optimizer_step: positive,
    checkpoint_ref: filled,
    relative_manifest_path: filled,
    relative_checkpoint_dir: filled,
    checkpoint_object_digest: filled,
    checkpoint_total_bytes: positive,
    dataset_identity: str,
    ...gitFields,
    detail: str,
    manifest_digest: str,
  },
  { field: "manifest_digest", prefix: "psion_actual_pretraining_checkpoint_manifest|" },
);
export type ActualManifest = Content<typeof actualManifest>;

const hashedFile = record({ path: filled, sha256: str });

export const backupReceipt = document(
  actual("checkpoint_backup_receipt"),
  {
    ...head,
    checkpoint_label: filled,
    optimizer_step: u64,
    checkpoint_ref: filled,
    ...gitFields,
    primary_pointer: hashedFile,
    primary_checkpoint_manifest: hashedFile,
    backup_pointer: hashedFile,
    backup_checkpoint_manifest: hashedFile,
    remote_backup_root: str,
    credential_source_names: listOf(str),
    backup_state: oneOf(["backed_up", "refused"]),
    upload_outcome: oneOf(["succeeded", "failed"]),
    upload_failure_reason: orNull(str),
    claim_boundary: str,
    detail: str,
    receipt_digest: str,
  },
  { field: "receipt_digest", prefix: "psion_actual_pretraining_checkpoint_backup_receipt|" },
);
export type BackupReceipt = Content<typeof backupReceipt>;

export const autoResumeReceipt = document(
  actual("auto_resume_receipt"),
  {
    ...head,
    ...gitFields,
    requested_primary_pointer_path: str,
    backup_receipt_path: str,
    backup_pointer_path: str,
    primary_pointer_state: oneOf(["accepted", "corrupt", "stale", "missing"]),
    resolution_state: oneOf(["accepted_primary_pointer", "recovered_from_backup", "refused"]),
    resume_source_kind: oneOf(["primary_pointer", "backup_receipt", "none"]),
    restored_primary_pointer: bool,
    chosen_checkpoint_label: orNull(str),
    chosen_optimizer_step: orNull(u64),
    chosen_checkpoint_ref: orNull(str),
    chosen_checkpoint_manifest: orNull(hashedFile),
    refusal_reason: orNull(str),
    claim_boundary: str,
    detail: str,
    receipt_digest: str,
  },
  { field: "receipt_digest", prefix: "psion_actual_pretraining_auto_resume_receipt|" },
);
export type AutoResumeReceipt = Content<typeof autoResumeReceipt>;

/** What was done about a pointer that could not be used, or a copy that failed. */
export const drill = document(
  actual("checkpoint_failure_drill"),
  {
    ...{ lane_id: filled, run_id: filled, drill_id: filled },
    drill_kind: oneOf(["failed_upload", "corrupt_pointer", "stale_pointer"]),
    trigger_surface: oneOf(["backup", "resume"]),
    ...gitFields,
    outcome: oneOf(["recovered_without_manual_edit", "retained_refusal"]),
    evidence_paths: listOf(str),
    refusal_reason: orNull(str),
    claim_boundary: str,
    detail: str,
    receipt_digest: str,
  },
  { field: "receipt_digest", prefix: "psion_actual_pretraining_checkpoint_failure_drill|" },
);

export const drillIdOf = (kind: string, step: number | bigint): string =>
  `psion_actual_pretraining_checkpoint_failure_drill::${step}::${kind}`;

export const handoffReceipt = document(
  "psionic.train.checkpoint_handoff_receipt.v1",
  {
    lane_id: filled,
    serving_node_pubkey: filled,
    peer_node_pubkey: filled,
    source_run_id: filled,
    ...windowOfRun,
    source_run_root: maybe(str),
    source_kind: oneOf(["live_primary_pointer", "durable_backup_copy"]),
    checkpoint_label: filled,
    optimizer_step: positive,
    checkpoint_ref: filled,
    checkpoint_manifest_digest: filled,
    checkpoint_object_digest: filled,
    checkpoint_total_bytes: positive,
    source_checkpoint_pointer: binding,
    source_checkpoint_manifest: binding,
    restored_from_backup: bool,
    detail: filled,
    receipt_digest: str,
  },
  {
    ...{ field: "receipt_digest", prefix: "psionic_train_checkpoint_handoff|" },
    ...{ stripPaths: true, omit: ["source_run_root"] },
  },
);
export type HandoffReceipt = Content<typeof handoffReceipt>;

export const recoveryReceipt = document(
  "psionic.train.grouped_replica_stage_recovery_receipt.v1",
  {
    ...head,
    window_id: filled,
    assignment_id: filled,
    grouped_stage_assignment: stageAssignment,
    checkpoint_label: filled,
    optimizer_step: positive,
    checkpoint_ref: filled,
    checkpoint_manifest_digest: filled,
    checkpoint_object_digest: filled,
    recovery_source_kind: oneOf(["retained_checkpoint", "peer_checkpoint_handoff"]),
    resolution_state: oneOf(["accepted_grouped_stage_checkpoint", "accepted_peer_handoff_checkpoint"]),
    restored_primary_pointer: bool,
    checkpoint_pointer: binding,
    checkpoint_manifest: binding,
    checkpoint_handoff_receipt: maybe(binding),
    detail: filled,
    recovery_receipt_digest: str,
  },
  {
    ...{ field: "recovery_receipt_digest", prefix: "psionic_train_grouped_stage_recovery_receipt|" },
    stripPaths: true,
  },
);
export type RecoveryReceipt = Content<typeof recoveryReceipt>;

/** The part of a status file of a lane that others read. */
export const laneStatus = record({ run_id: maybe(str), phase: maybe(str) });
