/** Which checkpoint a run goes on from, and the receipt of how that was decided. */
import { join } from "node:path";
import { PsionicError } from "../core/error.ts";
import { isObject, type Json } from "../models/files/strict_json.ts";
import { readState } from "./checkpoint.ts";
import { type Run, readDocument, retainedPaths, schemaId, withDigest, write } from "./run_root.ts";

export type Resolution =
  | { readonly state: "begin" }
  | { readonly state: "found"; readonly step: number; readonly folder: string; readonly digest: string }
  | { readonly state: "refused"; readonly reason: string };

type PointerState = "accepted" | "stale" | "corrupt" | "missing";

/** Reads the pointer, its manifest and the checkpoint's own state; all three must say the same. */
export function resolvePointer(run: Run): Resolution {
  const { pointerState, resolution } = looked(run);
  const chosen = resolution.state === "found" ? resolution : undefined;
  const folder = chosen && `checkpoints/step-${chosen.step}`;
  const receipt = withDigest("auto_resume_receipt", "receipt_digest", {
    schema_version: schemaId("auto_resume_receipt"),
    lane_id: run.lane.id,
    run_id: run.runId,
    ...run.git,
    requested_primary_pointer_path: retainedPaths.latest_checkpoint_pointer_path,
    backup_receipt_path: retainedPaths.latest_checkpoint_backup_receipt_path,
    backup_pointer_path: "checkpoints/backups/latest_accepted_checkpoint_pointer.backup.json",
    primary_pointer_state: pointerState,
    resolution_state: resolution.state === "refused" ? "refused" : "accepted_primary_pointer",
    resume_source_kind: chosen ? "primary_pointer" : "none",
    restored_primary_pointer: false,
    chosen_checkpoint_label: chosen ? `${run.lane.runPrefix}-step-${chosen.step}` : null,
    chosen_optimizer_step: chosen?.step ?? null,
    chosen_checkpoint_ref: chosen ? `checkpoint://${run.lane.id}/${run.runId}/step-${chosen.step}` : null,
    chosen_checkpoint_manifest: folder ? `${folder}/checkpoint_manifest.json` : null,
    refusal_reason: resolution.state === "refused" ? resolution.reason : null,
    claim_boundary: run.lane.claimBoundary,
    detail:
      resolution.state === "begin" ? "No checkpoint yet: the run begins at step 0." : "Digests were checked.",
    receipt_digest: "",
  });
  write(run, retainedPaths.auto_resume_receipt_path, receipt);
  return resolution;
}

function looked(run: Run): { readonly pointerState: PointerState; readonly resolution: Resolution } {
  const refused = (pointerState: PointerState, reason: string) =>
    ({ pointerState, resolution: { state: "refused", reason } }) as const;
  let pointer: { readonly [key: string]: Json };
  try {
    pointer = readDocument(run.root, retainedPaths.latest_checkpoint_pointer_path);
  } catch (error) {
    const missing = error instanceof PsionicError && error.code === "file_not_found";
    return refused(
      missing ? "missing" : "corrupt",
      `${missing ? "no" : "unreadable"} checkpoint pointer: ${messageOf(error)}`,
    );
  }
  if (pointer.pointer_state === "pending_first_checkpoint") {
    return { pointerState: "accepted", resolution: { state: "begin" } };
  }
  const { optimizer_step: step, checkpoint_manifest_relative_path: path } = pointer;
  if (
    pointer.pointer_state !== "accepted" ||
    !Number.isSafeInteger(step) ||
    Number(step) < 1 ||
    path !== manifestPath(Number(step))
  ) {
    return refused("corrupt", "the checkpoint pointer names no checkpoint of this run");
  }
  try {
    const manifest = readDocument(run.root, String(path));
    checkManifest(run, pointer, manifest);
    const folder = join(run.root, "checkpoints", `step-${step}`);
    const digest = String(manifest.checkpoint_object_digest);
    const state = readState(folder, digest);
    if (state.completed_steps !== step)
      return refused("stale", `the checkpoint is of step ${state.completed_steps}, the pointer of ${step}`);
    return { pointerState: "accepted", resolution: { state: "found", step: Number(step), folder, digest } };
  } catch (error) {
    return refused("stale", `the checkpoint that the pointer names is not whole: ${messageOf(error)}`);
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
    if (manifest[key] !== pointer[key])
      throw new PsionicError("digest_mismatch", `${key} differs between pointer and manifest`);
  }
  if (!isObject(manifest) || manifest.lane_id !== run.lane.id)
    throw new PsionicError("digest_mismatch", "the manifest is of another lane");
  const again = withDigest("checkpoint_manifest", "manifest_digest", { ...manifest, manifest_digest: "" });
  if (again.manifest_digest !== manifest.manifest_digest) {
    throw new PsionicError("digest_mismatch", "the manifest's digest is not that of its fields");
  }
}
