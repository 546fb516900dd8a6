/** Which checkpoint a run goes on from, and the receipt of how that was decided. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { PsionicError } from "../core/error.ts";
import type { Json } from "../models/files/strict_json.ts";
import { type Accepted, backupPointerPath, restoreFromBackup, writeDrill } from "./backup.ts";
import { verifyCheckpoint } from "./checkpoint.ts";
import { type Run, readDocument, retainedPaths, schemaId, withDigest, write } from "./run_root.ts";

export type Resolution =
  | { readonly state: "begin" }
  | {
      readonly state: "found";
      readonly step: number;
      readonly label: string;
      readonly ref: string;
      readonly folder: string;
      readonly digest: string;
    }
  | { readonly state: "refused"; readonly reason: string };

type PointerState = "accepted" | "stale" | "corrupt" | "missing";
type Looked =
  | { readonly state: "accepted"; readonly accepted: Accepted | undefined }
  | { readonly state: Exclude<PointerState, "accepted">; readonly reason: string };

/**
 * Reads the pointer, its manifest and the checkpoint's files, which must all say the same; where they do not, the backup
 * takes their place if there is a whole one.
 */
export async function resolvePointer(run: Run): Promise<Resolution> {
  const looked = lookAtPointer(run);
  if (looked.state === "accepted") {
    writeReceipt(run, "accepted", looked.accepted, { recovered: false, refusal: null });
    return looked.accepted ? found(run, looked.accepted) : { state: "begin" };
  }
  const kind = looked.state === "stale" ? "stale_pointer" : "corrupt_pointer";
  try {
    if (!existsSync(join(run.root, retainedPaths.latest_checkpoint_backup_receipt_path))) {
      throw new PsionicError("file_not_found", "there is no backup");
    }
    const restored = await restoreFromBackup(run);
    writeReceipt(run, looked.state, restored, { recovered: true, refusal: null });
    writeDrill(run, kind, restored.step, null);
    return found(run, restored);
  } catch (error) {
    const reason = `${looked.reason}; ${messageOf(error)}`;
    writeReceipt(run, looked.state, undefined, { recovered: false, refusal: reason });
    writeDrill(run, kind, 0, reason);
    return { state: "refused", reason };
  }
}

const found = (run: Run, accepted: Accepted): Resolution => ({
  state: "found",
  ...accepted,
  folder: join(run.root, "checkpoints", `step-${accepted.step}`),
});

function writeReceipt(
  run: Run,
  pointerState: PointerState,
  chosen: Accepted | undefined,
  { recovered, refusal }: { readonly recovered: boolean; readonly refusal: string | null },
): void {
  const receipt = withDigest("auto_resume_receipt", "receipt_digest", {
    schema_version: schemaId("auto_resume_receipt"),
    lane_id: run.lane.id,
    run_id: run.runId,
    ...run.git,
    requested_primary_pointer_path: retainedPaths.latest_checkpoint_pointer_path,
    backup_receipt_path: retainedPaths.latest_checkpoint_backup_receipt_path,
    backup_pointer_path: backupPointerPath,
    primary_pointer_state: pointerState,
    resolution_state:
      refusal !== null ? "refused" : recovered ? "recovered_from_backup" : "accepted_primary_pointer",
    resume_source_kind: chosen ? (recovered ? "backup_receipt" : "primary_pointer") : "none",
    restored_primary_pointer: recovered,
    chosen_checkpoint_label: chosen?.label ?? null,
    chosen_optimizer_step: chosen?.step ?? null,
    chosen_checkpoint_ref: chosen?.ref ?? null,
    chosen_checkpoint_manifest: chosen ? manifestPath(chosen.step) : null,
    refusal_reason: refusal,
    claim_boundary: run.lane.claimBoundary,
    detail:
      chosen || refusal !== null ? "Digests were checked." : "No checkpoint yet: the run begins at step 0.",
    receipt_digest: "",
  });
  write(run, retainedPaths.auto_resume_receipt_path, receipt);
}

/** What the pointer says and whether that is so; a pointer to come is good, and names nothing. */
export function lookAtPointer(run: Run): Looked {
  let pointer: { readonly [key: string]: Json };
  try {
    pointer = readDocument(run.root, retainedPaths.latest_checkpoint_pointer_path);
  } catch (error) {
    const missing = error instanceof PsionicError && error.code === "file_not_found";
    const what = missing ? "no checkpoint pointer" : "unreadable checkpoint pointer";
    return { state: missing ? "missing" : "corrupt", reason: `${what}: ${messageOf(error)}` };
  }
  if (pointer.pointer_state === "pending_first_checkpoint") return { state: "accepted", accepted: undefined };
  const step = Number(pointer.optimizer_step);
  const path = pointer.checkpoint_manifest_relative_path;
  if (
    pointer.pointer_state !== "accepted" ||
    !Number.isSafeInteger(step) ||
    step < 1 ||
    path !== manifestPath(step)
  ) {
    return { state: "corrupt", reason: "the checkpoint pointer names no checkpoint of this run" };
  }
  try {
    const manifest = readDocument(run.root, path);
    checkManifest(run, pointer, manifest);
    const digest = String(manifest.checkpoint_object_digest);
    const { completed_steps } = verifyCheckpoint(join(run.root, "checkpoints", `step-${step}`), digest);
    if (completed_steps !== step) {
      return {
        state: "stale",
        reason: `the checkpoint is of step ${completed_steps}, the pointer of ${step}`,
      };
    }
    const [label, ref] = [String(pointer.checkpoint_label), String(pointer.checkpoint_ref)];
    return { state: "accepted", accepted: { step, label, ref, digest } };
  } catch (error) {
    return {
      state: "stale",
      reason: `the checkpoint that the pointer names is not whole: ${messageOf(error)}`,
    };
  }
}

const manifestPath = (step: number): string => `checkpoints/step-${step}/checkpoint_manifest.json`;
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Throws where the manifest is not the pointer's, or its own digest is not that of its fields. */
function checkManifest(
  run: Run,
  pointer: { readonly [key: string]: Json },
  manifest: { readonly [key: string]: Json },
): void {
  for (const key of ["lane_id", "run_id", "checkpoint_label", "optimizer_step", "checkpoint_ref"]) {
    if (manifest[key] !== pointer[key]) {
      throw new PsionicError("digest_mismatch", `${key} differs between pointer and manifest`);
    }
  }
  if (manifest.lane_id !== run.lane.id || manifest.run_id !== run.runId) {
    throw new PsionicError("digest_mismatch", "the manifest is of another run");
  }
  const again = withDigest("checkpoint_manifest", "manifest_digest", { ...manifest, manifest_digest: "" });
  if (again.manifest_digest !== manifest.manifest_digest) {
    throw new PsionicError("digest_mismatch", "the manifest's digest is not that of its fields");
  }
}
