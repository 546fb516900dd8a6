/** Handing the latest checkpoint to a peer: the receipt that names it, and its history. */
import { sha256 } from "../core/digest.ts";
import { PsionicError } from "../core/error.ts";
import { type HandoffReceipt, handoffReceipt } from "./checkpoint.ts";
import { Refusal, refuse } from "./contract.ts";
import { sealed } from "./documents.ts";
import { backupManifestPathOf, backupPointerPath, handoffPath, pointerPath } from "./layout.ts";
import type { RunRoot } from "./run_root.ts";
import { type CheckpointSurface, deriveSurface } from "./surface.ts";
import type { Invocation } from "./surfaces.ts";

/** Writes the handoff receipt for the peer that the manifest names. */
export function serveCheckpoint(invocation: Invocation): string {
  const { root, manifest } = invocation;
  const surface = checkedSurface(invocation);
  const { checkpoint_label, optimizer_step, checkpoint_ref, checkpoint_manifest_digest } = surface;
  const { checkpoint_object_digest, checkpoint_total_bytes } = surface;
  if (
    checkpoint_label === null ||
    optimizer_step === null ||
    checkpoint_ref === null ||
    checkpoint_manifest_digest === null ||
    checkpoint_object_digest === null ||
    checkpoint_total_bytes === null
  )
    return refuse("checkpoint_missing", `${root.root} has no whole checkpoint to serve`);
  const { pointer, manifestPath, live } = sourceOf(surface);
  if (!root.has(pointer) || !root.has(manifestPath))
    return refuse("checkpoint_missing", `${root.root} lacks ${root.has(pointer) ? manifestPath : pointer}`);
  const receipt = sealed(handoffReceipt, {
    lane_id: surface.lane_id,
    serving_node_pubkey: manifest.coordination.node_pubkey ?? "",
    peer_node_pubkey: manifest.peer_node_pubkey ?? "",
    source_run_id: surface.run_id,
    window_id: surface.window_id,
    assignment_id: surface.assignment_id,
    grouped_stage_assignment: surface.grouped_stage_assignment,
    source_run_root: root.root,
    source_kind: live ? "live_primary_pointer" : "durable_backup_copy",
    ...{ checkpoint_label, optimizer_step, checkpoint_ref, checkpoint_manifest_digest },
    ...{ checkpoint_object_digest, checkpoint_total_bytes },
    source_checkpoint_pointer: root.bind("checkpoint_pointer", pointer),
    source_checkpoint_manifest: root.bind("checkpoint_manifest", manifestPath),
    restored_from_backup: !live,
    detail: "Names the checkpoint; its bytes are fetched by digest.",
  });
  retainHandoff(root, receipt);
  return `Handed ${checkpoint_label} of step ${optimizer_step} to ${receipt.peer_node_pubkey}.`;
}

function checkedSurface({ root, manifest }: Invocation): CheckpointSurface {
  try {
    return (
      deriveSurface(root, manifest) ?? refuse("checkpoint_missing", `${root.root} has no checkpoint to serve`)
    );
  } catch (cause) {
    if (cause instanceof Refusal || !(cause instanceof PsionicError)) throw cause;
    return refuse("checkpoint_digest_mismatch", cause.message, cause);
  }
}

/** The live files while the pointer is accepted, else the backup's. */
function sourceOf(surface: CheckpointSurface) {
  if (surface.pointer_state === "accepted") {
    const manifestPath = surface.artifacts.checkpoint_manifest_path ?? "";
    return { pointer: pointerPath, manifestPath, live: true };
  }
  if (surface.backup_state === "backed_up" && surface.optimizer_step !== null) {
    return {
      pointer: backupPointerPath,
      manifestPath: backupManifestPathOf(surface.optimizer_step),
      live: false,
    };
  }
  return refuse("checkpoint_missing", "the pointer is not accepted and there is no backup");
}

/** The latest receipt and its place in the history. */
export function retainHandoff(root: RunRoot, receipt: HandoffReceipt): void {
  const step = String(receipt.optimizer_step).padStart(6, "0");
  const key = sha256(receipt.receipt_digest).slice(0, 12);
  try {
    root.write(`status/peer_checkpoint_handoffs/step-${step}-${key}.json`, receipt);
    root.write(handoffPath, receipt);
  } catch (cause) {
    if (cause instanceof PsionicError) refuse("artifact_incomplete", cause.message, cause);
    throw cause;
  }
}
