/** The actual lane's second copy of a checkpoint, and the way back to the best one there is. */
import { copyFileSync, renameSync } from "node:fs";
import { dirname } from "node:path";
import { sha256 } from "../../core/digest.ts";
import { PsionicError } from "../../core/error.ts";
import { syncFolder } from "../../train/durable.ts";
import {
  type ActualManifest,
  type ActualPointer,
  actualManifest,
  actualPointer,
  autoResumeReceipt,
  backupReceipt,
  drill,
  drillIdOf,
} from "../checkpoint.ts";
import { refuse } from "../contract.ts";
import { sealed } from "../documents.ts";
import {
  autoResumePath,
  backupManifestPathOf,
  backupPointerPath,
  backupReceiptPath,
  drillPathOf,
  objectPathOf,
  pointerPath,
} from "../layout.ts";
import { fileRecord, type RunRoot } from "../run_root.ts";
import type { Invocation } from "../surfaces.ts";
import { actualManifestPath, claimBoundary, gitOf, headOf } from "./actual_files.ts";
import { checkObject } from "./record_object.ts";

export type Accepted = { readonly pointer: ActualPointer; readonly manifest: ActualManifest };

const backupFolder = "checkpoints/backups";
const backupObjectPath = (step: number): string => `${backupFolder}/step-${step}/state.safetensors`;

const message = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));

type PointerState = "accepted" | "missing" | "corrupt" | "stale";
export type Looked =
  | { readonly state: "accepted"; readonly accepted: Accepted }
  | { readonly state: Exclude<PointerState, "accepted">; readonly reason: string };

/** What the primary pointer names, and whether all of it is so, the object's bytes included. */
export function lookAtPrimary({ root, lane }: Pick<Invocation, "root" | "lane">): Looked {
  if (!root.has(pointerPath)) return { state: "missing", reason: "there is no checkpoint pointer" };
  let pointer: ActualPointer | undefined;
  try {
    pointer = root.read(actualPointer, pointerPath);
  } catch (cause) {
    return { state: "corrupt", reason: message(cause) };
  }
  if (pointer?.pointer_state !== "accepted")
    return { state: "stale", reason: "no checkpoint was accepted yet" };
  try {
    const path = pointer.checkpoint_manifest_relative_path ?? "";
    const manifest = root.read(actualManifest, path);
    if (!manifest) return { state: "stale", reason: `no manifest at ${path}` };
    const same =
      pointer.lane_id === lane.id &&
      (["lane_id", "run_id", "checkpoint_label", "optimizer_step", "checkpoint_ref"] as const).every(
        (field) => String(pointer[field]) === String(manifest[field]),
      );
    if (!same) return { state: "stale", reason: "pointer and manifest name two checkpoints" };
    checkObject(root, manifest.optimizer_step, {
      ...manifest,
      checkpoint_total_bytes: Number(manifest.checkpoint_total_bytes),
    });
    return { state: "accepted", accepted: { pointer, manifest } };
  } catch (cause) {
    return { state: "stale", reason: message(cause) };
  }
}

const hashed = (root: RunRoot, path: string) => ({ path, sha256: sha256(root.bytes(path)) });

/** Copies pointer, manifest and bytes, reads the copy again, and writes the receipt. */
function backUpActual(invocation: Invocation, { pointer, manifest }: Accepted): void {
  const { root } = invocation;
  const step = Number(manifest.optimizer_step);
  const copy = root.place(backupObjectPath(step));
  const aside = `${copy}.part`;
  copyFileSync(root.path(objectPathOf(step)), aside);
  syncFolder(aside);
  // an earlier copy of this step is replaced by a good one alone
  checkBytes(aside, manifest);
  renameInto(aside, copy);
  root.writeBytes(backupManifestPathOf(step), root.bytes(actualManifestPath(step)));
  root.writeBytes(backupPointerPath, root.bytes(pointerPath));
  writeBackupReceipt(invocation, pointer, null);
}

function renameInto(aside: string, target: string): void {
  renameSync(aside, target);
  syncFolder(dirname(target));
}

/** Whether the receipt is of this checkpoint and the bytes of its copy are still those. */
export function copyHolds(root: RunRoot, { manifest }: Accepted): boolean {
  const receipt = root.read(backupReceipt, backupReceiptPath);
  const same =
    receipt?.backup_state === "backed_up" &&
    BigInt(receipt.optimizer_step) === BigInt(manifest.optimizer_step) &&
    receipt.checkpoint_ref === manifest.checkpoint_ref;
  if (!same) return false;
  try {
    checkCopy(root, manifest);
    return true;
  } catch (cause) {
    if (cause instanceof PsionicError) return false;
    throw cause;
  }
}

/** Throws where the second copy is not the bytes of the manifest. */
function checkCopy(root: RunRoot, manifest: ActualManifest): void {
  checkBytes(root.path(backupObjectPath(Number(manifest.optimizer_step))), manifest);
}

function checkBytes(path: string, manifest: ActualManifest): void {
  const found = fileRecord(path);
  if (found.sha256 !== manifest.checkpoint_object_digest)
    refuse(
      "checkpoint_digest_mismatch",
      `${path}: expected ${manifest.checkpoint_object_digest}, got ${found.sha256}`,
    );
}

/** A receipt that says so and why, with a drill. */
export function refuseBackup(invocation: Invocation, { pointer }: Accepted, failure: string): void {
  writeBackupReceipt(invocation, pointer, failure);
  writeDrill(invocation, "failed_upload", Number(pointer.optimizer_step), failure);
}

/** Copies as `backUpActual`; why that failed, if it did. An earlier good copy keeps its receipt and its pointer then. */
export function tryBackup(invocation: Invocation, accepted: Accepted): string | undefined {
  const { root } = invocation;
  const earlier = root.read(backupReceipt, backupReceiptPath);
  const good = earlier?.backup_state === "backed_up" && root.has(backupPointerPath);
  const pointer = good ? root.bytes(backupPointerPath) : undefined;
  try {
    backUpActual(invocation, accepted);
    return undefined;
  } catch (cause) {
    const reason = message(cause);
    if (pointer === undefined) refuseBackup(invocation, accepted, reason);
    else {
      root.writeBytes(backupPointerPath, pointer);
      writeDrill(invocation, "failed_upload", Number(accepted.pointer.optimizer_step), reason);
    }
    return reason;
  }
}

function writeBackupReceipt(invocation: Invocation, pointer: ActualPointer, failure: string | null): void {
  const { root } = invocation;
  const step = pointer.optimizer_step;
  const copy = (path: string) => (root.has(path) ? hashed(root, path) : { path, sha256: "" });
  root.write(
    backupReceiptPath,
    sealed(backupReceipt, {
      ...headOf(invocation),
      ...{ checkpoint_label: pointer.checkpoint_label, optimizer_step: step },
      checkpoint_ref: pointer.checkpoint_ref ?? "",
      ...gitOf(invocation),
      primary_pointer: hashed(root, pointerPath),
      primary_checkpoint_manifest: hashed(root, actualManifestPath(step)),
      backup_pointer: copy(backupPointerPath),
      backup_checkpoint_manifest: copy(backupManifestPathOf(step)),
      ...{ remote_backup_root: backupFolder, credential_source_names: [] },
      backup_state: failure === null ? "backed_up" : "refused",
      upload_outcome: failure === null ? "succeeded" : "failed",
      upload_failure_reason: failure,
      claim_boundary: claimBoundary,
      detail: failure === null ? "The copy was read again and hashed." : "Nothing was copied.",
    }),
  );
}

export type Recovered = {
  readonly accepted: Accepted;
  readonly source: "primary_pointer" | "backup_receipt";
};

/** Decides where a resume goes on from, restores it where it is the backup, and leaves the receipt in any case. */
export function recoverActual(invocation: Invocation): Recovered | { readonly refusal: string } {
  const looked = lookAtPrimary(invocation);
  if (looked.state === "accepted") {
    writeAutoResume(invocation, "accepted", { accepted: looked.accepted, source: "primary_pointer" });
    return { accepted: looked.accepted, source: "primary_pointer" };
  }
  const kind = looked.state === "missing" ? undefined : (`${looked.state}_pointer` as const);
  try {
    const accepted = restoreBackup(invocation);
    const recovered = { accepted, source: "backup_receipt" as const };
    writeAutoResume(invocation, looked.state, recovered);
    if (kind) writeDrill(invocation, kind, Number(accepted.manifest.optimizer_step), null);
    return recovered;
  } catch (cause) {
    const refusal = `${looked.reason}; ${message(cause)}`;
    writeAutoResume(invocation, looked.state, { refusal });
    return { refusal };
  }
}

function restoreBackup({ root, lane }: Invocation): Accepted {
  const receipt = root.read(backupReceipt, backupReceiptPath);
  const pointer = root.read(actualPointer, backupPointerPath);
  if (receipt?.backup_state !== "backed_up" || !pointer)
    return refuse("checkpoint_missing", "there is no backup to go back to");
  const step = Number(receipt.optimizer_step);
  const manifest = root.read(actualManifest, backupManifestPathOf(step));
  if (!manifest || receipt.lane_id !== lane.id)
    return refuse("checkpoint_missing", "the backup's manifest is not there");
  for (const named of [receipt.backup_pointer, receipt.backup_checkpoint_manifest]) {
    if (sha256(root.bytes(named.path)) !== named.sha256)
      refuse("checkpoint_digest_mismatch", `${named.path} is not the one of the backup receipt`);
  }
  checkCopy(root, manifest);
  const object = root.place(objectPathOf(step));
  const aside = `${object}.part`;
  copyFileSync(root.path(backupObjectPath(step)), aside);
  syncFolder(aside);
  renameInto(aside, object);
  root.writeBytes(actualManifestPath(step), root.bytes(backupManifestPathOf(step)));
  root.writeBytes(pointerPath, root.bytes(backupPointerPath));
  return { pointer, manifest };
}

function writeAutoResume(
  invocation: Invocation,
  primary: PointerState,
  found: Recovered | { readonly refusal: string },
): void {
  const { root } = invocation;
  const chosen = "accepted" in found ? found.accepted.pointer : undefined;
  const restored = "source" in found && found.source === "backup_receipt";
  root.write(
    autoResumePath,
    sealed(autoResumeReceipt, {
      ...headOf(invocation),
      ...gitOf(invocation),
      requested_primary_pointer_path: pointerPath,
      backup_receipt_path: backupReceiptPath,
      backup_pointer_path: backupPointerPath,
      primary_pointer_state: primary,
      resolution_state:
        chosen === undefined ? "refused" : restored ? "recovered_from_backup" : "accepted_primary_pointer",
      resume_source_kind: "source" in found ? found.source : "none",
      restored_primary_pointer: restored,
      chosen_checkpoint_label: chosen?.checkpoint_label ?? null,
      chosen_optimizer_step: chosen?.optimizer_step ?? null,
      chosen_checkpoint_ref: chosen?.checkpoint_ref ?? null,
      chosen_checkpoint_manifest: chosen ? hashed(root, actualManifestPath(chosen.optimizer_step)) : null,
      refusal_reason: "refusal" in found ? found.refusal : null,
      claim_boundary: claimBoundary,
      detail: chosen ? "Digests were checked." : "There is no checkpoint to go on from.",
    }),
  );
}

/** What was done about a pointer that could not be used, or a copy that failed. */
function writeDrill(
  invocation: Invocation,
  kind: "corrupt_pointer" | "stale_pointer" | "failed_upload",
  step: number,
  refusal: string | null,
): void {
  const upload = kind === "failed_upload";
  invocation.root.write(
    drillPathOf(kind),
    sealed(drill, {
      ...headOf(invocation),
      drill_id: drillIdOf(kind, step),
      ...{ drill_kind: kind, trigger_surface: upload ? "backup" : "resume" },
      ...gitOf(invocation),
      outcome: refusal === null ? "recovered_without_manual_edit" : "retained_refusal",
      evidence_paths: [upload ? backupReceiptPath : autoResumePath, pointerPath],
      refusal_reason: refusal,
      claim_boundary: claimBoundary,
      detail: upload
        ? "The checkpoint itself is intact; the copy is to be made again."
        : "The checkpoint was restored from its backup.",
    }),
  );
}
