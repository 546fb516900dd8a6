/** The checkpoint surface: what the checkpoint files of a run root say together. Derived anew whenever surfaces are written. */
import { unexpected } from "../core/error.ts";
import { isObject } from "../models/files/strict_json.ts";
import {
  type ActualPointer,
  actualManifest,
  actualPointer,
  autoResumeReceipt,
  type BackupReceipt,
  backupReceipt,
  type CheckpointManifest,
  type CheckpointPointer,
  checkpointManifest,
  checkpointPointer,
  drill,
  drillIdOf,
  handoffReceipt,
  laneStatus,
  type RecoveryReceipt,
  recoveryReceipt,
} from "./checkpoint.ts";
import { actualLane, operations, roles } from "./contract.ts";
import { type Content, document, sealed } from "./documents.ts";
import { bool, maybe, oneOf, orNull, record, str, u64 } from "./fields.ts";
import {
  autoResumePath,
  backupManifestPathOf,
  backupPointerPath,
  backupReceiptPath,
  drillPathOf,
  handoffPath,
  pointerPath,
  recoveryPath,
  statusPath,
  surfacePath,
} from "./layout.ts";
import { type InvocationManifest, stageAssignment } from "./manifest.ts";
import { staysInside } from "./names.ts";
import type { RunRoot } from "./run_root.ts";

const artifactNames = [
  "checkpoint_pointer_path",
  "checkpoint_manifest_path",
  "checkpoint_backup_receipt_path",
  "checkpoint_backup_pointer_path",
  "checkpoint_backup_manifest_path",
  "auto_resume_receipt_path",
  "grouped_stage_recovery_receipt_path",
  "peer_checkpoint_handoff_receipt_path",
  "checkpoint_failure_drill_path",
] as const;
type ArtifactName = (typeof artifactNames)[number];
const path = orNull(str);
type PathFields = Readonly<Record<ArtifactName, typeof path>>;

/** Paths in it are relative to the run root, so that it says the same after a move. */
export const checkpointSurface = document("psionic.train.checkpoint_surface.v1", {
  lane_id: str,
  role: oneOf(roles),
  operation: oneOf(operations),
  run_id: str,
  window_id: maybe(str),
  assignment_id: maybe(str),
  grouped_stage_assignment: maybe(stageAssignment),
  run_root: str,
  current_phase: orNull(str),
  pointer_state: orNull(str),
  checkpoint_label: orNull(str),
  optimizer_step: orNull(u64),
  checkpoint_ref: orNull(str),
  checkpoint_manifest_digest: orNull(str),
  checkpoint_object_digest: orNull(str),
  checkpoint_total_bytes: orNull(u64),
  backup_state: orNull(str),
  upload_outcome: orNull(str),
  upload_failure_reason: orNull(str),
  recovery_resolution_state: orNull(str),
  recovery_source_kind: orNull(str),
  restored_primary_pointer: orNull(bool),
  artifacts: record(Object.fromEntries(artifactNames.map((name) => [name, path])) as PathFields),
});
export type CheckpointSurface = Content<typeof checkpointSurface>;

/** Phase and run id as the lane's own status file has them; empty where it keeps none. */
export function laneStatusOf(root: RunRoot): { readonly run_id?: string; readonly phase?: string } {
  return root.read({ schema: laneStatus, digest: undefined }, statusPath) ?? {};
}

type Asked = Pick<InvocationManifest, "role" | "operation">;

/** Throws where a file does not parse or the files contradict each other; undefined where there is no checkpoint state. */
export function deriveSurface(root: RunRoot, asked: Asked): CheckpointSurface | undefined {
  const old = root.read(checkpointSurface, surfacePath);
  const pointer = root.has(pointerPath) ? root.json(pointerPath) : undefined;
  if (isObject(pointer) && pointer.schema_version === checkpointPointer.id)
    return genericSurface(root, asked);
  return actualSurface(root, asked) ?? old;
}

function known(root: RunRoot, paths: Partial<Record<ArtifactName, string>>): CheckpointSurface["artifacts"] {
  const found = artifactNames.map((name) => {
    const at = paths[name];
    return [name, at !== undefined && root.has(at) ? at : null];
  });
  return Object.fromEntries(found);
}

function disagree(root: RunRoot, what: string): never {
  throw unexpected("digest_mismatch", root.root, "checkpoint files that agree", what);
}

/** Fields that pointer, manifest and what was made from them share. */
const shared = [
  ...(["lane_id", "run_id", "window_id", "assignment_id", "checkpoint_label", "optimizer_step"] as const),
  "checkpoint_ref",
] as const;

/** Pointer and manifest of the generic family, which must agree. */
export function genericCheckpoint(root: RunRoot): {
  readonly pointer: CheckpointPointer;
  readonly manifest: CheckpointManifest;
} {
  const pointer = root.read(checkpointPointer, pointerPath) ?? disagree(root, "no pointer");
  const at = pointer.checkpoint_manifest_relative_path;
  if (!staysInside(at)) disagree(root, `a manifest outside of it, ${JSON.stringify(at.slice(0, 80))}`);
  const manifest = root.read(checkpointManifest, at) ?? disagree(root, `no manifest at ${at}`);
  checkPair(root, pointer, manifest);
  return { pointer, manifest };
}

export function checkPair(root: RunRoot, pointer: CheckpointPointer, manifest: CheckpointManifest): void {
  for (const field of shared) {
    if (String(pointer[field]) !== String(manifest[field])) disagree(root, `two values of ${field}`);
  }
  if ((pointer.window_id === undefined) !== (pointer.assignment_id === undefined))
    disagree(root, "a window without assignment, or the reverse");
  if (
    pointer.grouped_stage_assignment?.assignment_digest !==
    manifest.grouped_stage_assignment?.assignment_digest
  )
    disagree(root, "two stage assignments");
  if (pointer.checkpoint_manifest_relative_path !== manifest.relative_manifest_path)
    disagree(root, "two paths of the manifest");
}

function checkRecovery(root: RunRoot, receipt: RecoveryReceipt, manifest: CheckpointManifest): void {
  const same =
    shared.every((field) => String(receipt[field]) === String(manifest[field])) &&
    receipt.checkpoint_manifest_digest === manifest.manifest_digest &&
    receipt.checkpoint_object_digest === manifest.checkpoint_object_digest &&
    receipt.grouped_stage_assignment.assignment_digest ===
      manifest.grouped_stage_assignment?.assignment_digest &&
    receipt.checkpoint_pointer.materialized_path === pointerPath &&
    receipt.checkpoint_manifest.materialized_path === manifest.relative_manifest_path;
  if (!same) disagree(root, "a recovery receipt of another checkpoint");
}

/** As surfaces call what a stage was recovered from. */
export function recoverySourceOf(recovery: RecoveryReceipt | undefined): string | null {
  const kind = recovery?.recovery_source_kind ?? null;
  return kind === "retained_checkpoint" ? "retained_grouped_stage_checkpoint" : kind;
}

function genericSurface(root: RunRoot, asked: Asked): CheckpointSurface {
  const { pointer, manifest } = genericCheckpoint(root);
  const recovery = root.read(recoveryReceipt, recoveryPath);
  if (recovery) checkRecovery(root, recovery, manifest);
  const handoff = root.read(handoffReceipt, handoffPath);
  return sealed(checkpointSurface, {
    lane_id: pointer.lane_id,
    ...{ role: asked.role, operation: asked.operation },
    run_id: pointer.run_id,
    window_id: pointer.window_id,
    assignment_id: pointer.assignment_id,
    grouped_stage_assignment: pointer.grouped_stage_assignment,
    run_root: root.root,
    current_phase: laneStatusOf(root).phase ?? null,
    pointer_state: pointer.pointer_state,
    checkpoint_label: pointer.checkpoint_label,
    optimizer_step: pointer.optimizer_step,
    checkpoint_ref: pointer.checkpoint_ref,
    checkpoint_manifest_digest: manifest.manifest_digest,
    checkpoint_object_digest: manifest.checkpoint_object_digest,
    checkpoint_total_bytes: manifest.checkpoint_total_bytes,
    backup_state: null,
    upload_outcome: "succeeded",
    upload_failure_reason: null,
    recovery_resolution_state: recovery?.resolution_state ?? null,
    recovery_source_kind: recoverySourceOf(recovery),
    restored_primary_pointer: recovery?.restored_primary_pointer ?? false,
    artifacts: known(root, {
      checkpoint_pointer_path: pointerPath,
      checkpoint_manifest_path: pointer.checkpoint_manifest_relative_path,
      ...(recovery && { grouped_stage_recovery_receipt_path: recoveryPath }),
      ...(handoff && { peer_checkpoint_handoff_receipt_path: handoffPath }),
    }),
  });
}

/**
 * How the second copy of the accepted checkpoint stands. A receipt of another checkpoint says nothing of this one: it stays
 * for whoever goes back to that copy.
 */
export function copyOf(pointer: ActualPointer | undefined, backup: BackupReceipt | undefined) {
  const accepted = pointer?.pointer_state === "accepted";
  const same =
    BigInt(backup?.optimizer_step ?? 0) === BigInt(pointer?.optimizer_step ?? 0) &&
    backup?.checkpoint_ref === pointer?.checkpoint_ref;
  if (!backup || !accepted || same)
    return { backup_state: backup?.backup_state ?? null, upload_outcome: backup?.upload_outcome ?? null };
  return { backup_state: "refused", upload_outcome: "failed", other: backup.optimizer_step };
}

/** The same, and why there is none: the receipt says it, or else the drill. */
function copyStateOf(root: RunRoot, pointer: ActualPointer | undefined, backup: BackupReceipt | undefined) {
  const { other, ...state } = copyOf(pointer, backup);
  if (other === undefined || !pointer)
    return { ...state, upload_failure_reason: backup?.upload_failure_reason ?? null };
  const failed = root.read(drill, drillPathOf("failed_upload"));
  const told = failed?.drill_id === drillIdOf("failed_upload", pointer.optimizer_step);
  const reason = told ? failed.refusal_reason : null;
  return { ...state, upload_failure_reason: reason ?? `the backup is of step ${other}` };
}

function actualSurface(root: RunRoot, asked: Asked): CheckpointSurface | undefined {
  const pointer = root.read(actualPointer, pointerPath);
  const backup = root.read(backupReceipt, backupReceiptPath);
  const resumed = root.read(autoResumeReceipt, autoResumePath);
  if (!pointer && !backup && !resumed) return undefined;
  const manifestPath = pointer?.checkpoint_manifest_relative_path ?? undefined;
  const backupManifestPath = backup && backupManifestPathOf(backup.optimizer_step);
  const manifest =
    (manifestPath === undefined ? undefined : root.read(actualManifest, manifestPath)) ??
    (backupManifestPath === undefined ? undefined : root.read(actualManifest, backupManifestPath));
  root.read(actualPointer, backupPointerPath);
  const status = laneStatusOf(root);
  const copied = copyStateOf(root, pointer, backup);
  const step = [pointer?.optimizer_step, backup?.optimizer_step, resumed?.chosen_optimizer_step].find(
    (s) => s !== undefined && s !== null && BigInt(s) > 0n,
  );
  const drills = ["failed_upload", "corrupt_pointer", "stale_pointer"];
  const order = asked.operation === "resume" ? [drills[1]!, drills[2]!, drills[0]!] : drills;
  const drillPath = order.map(drillPathOf).find((at) => root.has(at));
  return sealed(checkpointSurface, {
    lane_id: actualLane.id,
    ...{ role: asked.role, operation: asked.operation },
    run_id: status.run_id ?? pointer?.run_id ?? backup?.run_id ?? resumed?.run_id ?? "unknown_run",
    run_root: root.root,
    current_phase: status.phase ?? null,
    pointer_state: pointer?.pointer_state ?? null,
    checkpoint_label:
      pointer?.checkpoint_label ?? backup?.checkpoint_label ?? resumed?.chosen_checkpoint_label ?? null,
    optimizer_step: step ?? null,
    checkpoint_ref:
      pointer?.checkpoint_ref ?? backup?.checkpoint_ref ?? resumed?.chosen_checkpoint_ref ?? null,
    checkpoint_manifest_digest: manifest?.manifest_digest ?? null,
    checkpoint_object_digest: manifest?.checkpoint_object_digest ?? null,
    checkpoint_total_bytes: manifest?.checkpoint_total_bytes ?? null,
    ...copied,
    recovery_resolution_state: resumed?.resolution_state ?? null,
    recovery_source_kind: resumed?.resume_source_kind ?? null,
    restored_primary_pointer: resumed?.restored_primary_pointer ?? null,
    artifacts: known(root, {
      checkpoint_pointer_path: pointerPath,
      checkpoint_manifest_path: manifestPath,
      checkpoint_backup_receipt_path: backupReceiptPath,
      checkpoint_backup_pointer_path: backupPointerPath,
      checkpoint_backup_manifest_path: backupManifestPath,
      auto_resume_receipt_path: autoResumePath,
      checkpoint_failure_drill_path: drillPath,
    }),
  });
}
