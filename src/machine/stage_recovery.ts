/** A grouped stage that goes on from a checkpoint: the receipt of where that came from. */
import { PsionicError } from "../core/error.ts";
import { handoffReceipt, type RecoveryReceipt, recoveryReceipt } from "./checkpoint.ts";
import { Refusal, refuse } from "./contract.ts";
import { sealed } from "./documents.ts";
import { checkObject } from "./lanes/record_object.ts";
import { handoffPath, pointerPath, recoveryPath } from "./layout.ts";
import type { InvocationManifest } from "./manifest.ts";
import { genericCheckpoint } from "./surface.ts";
import type { Invocation } from "./surfaces.ts";

/** `resume` of a grouped stage: its steps are run by the `start` of the next window, which has an input. */
export function recoverStage(invocation: Invocation): string {
  const receipt = writeRecovery(invocation);
  return `Recovered step ${receipt.optimizer_step} from ${receipt.recovery_source_kind}; the next window goes on from it.`;
}

function writeRecovery({ root, manifest }: Invocation): RecoveryReceipt {
  const { pointer, manifest: listed } = checkpointOf({ root, manifest });
  const stage = manifest.grouped_stage_assignment;
  const { window_id, assignment_id } = manifest.coordination;
  const own = listed.grouped_stage_assignment;
  if (!own) return refuse("checkpoint_missing", `the checkpoint in ${root.root} is of no grouped stage`);
  const same =
    listed.lane_id === manifest.lane_id &&
    listed.window_id === window_id &&
    listed.assignment_id === assignment_id &&
    own.assignment_digest === stage?.assignment_digest;
  if (!same)
    return refuse("stale_assignment", "the checkpoint is of another lane, window, assignment or stage");
  checkObject(root, listed.optimizer_step, {
    checkpoint_object_digest: listed.checkpoint_object_digest,
    checkpoint_total_bytes: Number(listed.checkpoint_total_bytes),
  });
  const peer = manifest.peer_checkpoint_handoff_receipt !== null && root.read(handoffReceipt, handoffPath);
  const receipt = sealed(recoveryReceipt, {
    ...{ lane_id: listed.lane_id, run_id: listed.run_id, window_id: listed.window_id ?? "" },
    ...{ assignment_id: listed.assignment_id ?? "", grouped_stage_assignment: own },
    ...{ checkpoint_label: listed.checkpoint_label, optimizer_step: listed.optimizer_step },
    ...{ checkpoint_ref: listed.checkpoint_ref, checkpoint_manifest_digest: listed.manifest_digest },
    checkpoint_object_digest: listed.checkpoint_object_digest,
    recovery_source_kind: peer ? "peer_checkpoint_handoff" : "retained_checkpoint",
    resolution_state: peer ? "accepted_peer_handoff_checkpoint" : "accepted_grouped_stage_checkpoint",
    restored_primary_pointer: Boolean(peer),
    checkpoint_pointer: root.bind("checkpoint_pointer", pointerPath),
    checkpoint_manifest: root.bind("checkpoint_manifest", pointer.checkpoint_manifest_relative_path),
    checkpoint_handoff_receipt: peer ? root.bind("checkpoint_handoff_receipt", handoffPath) : undefined,
    detail: "Digests of pointer, manifest and object were checked.",
  });
  root.write(recoveryPath, receipt);
  return receipt;
}

function checkpointOf({ root }: Pick<Invocation, "root"> & { readonly manifest: InvocationManifest }) {
  if (!root.has(pointerPath))
    return refuse("checkpoint_missing", `no accepted checkpoint to resume from in ${root.root}`);
  try {
    return genericCheckpoint(root);
  } catch (cause) {
    if (cause instanceof Refusal || !(cause instanceof PsionicError)) throw cause;
    return refuse("checkpoint_digest_mismatch", cause.message, cause);
  }
}

/** Where the next window of a stage goes on from, after a `resume`; undefined where it begins at the seed. */
export function recoveredStart({ root, manifest }: Invocation) {
  const receipt = root.read(recoveryReceipt, recoveryPath);
  const stage = manifest.grouped_stage_assignment;
  if (!receipt || receipt.grouped_stage_assignment.assignment_digest !== stage?.assignment_digest)
    return undefined;
  const { manifest: listed } = checkpointOf({ root, manifest });
  if (listed.manifest_digest !== receipt.checkpoint_manifest_digest)
    return refuse(
      "checkpoint_digest_mismatch",
      `${recoveryPath} is of step ${receipt.optimizer_step}, manifest ${receipt.checkpoint_manifest_digest}; the pointer names step ${listed.optimizer_step}, manifest ${listed.manifest_digest}; resume anew`,
    );
  const step = Number(listed.optimizer_step);
  const object_digest = listed.checkpoint_object_digest;
  const object_bytes = Number(listed.checkpoint_total_bytes);
  const record = { checkpoint_object_digest: object_digest, checkpoint_total_bytes: object_bytes };
  return { state: { step, object_digest, object_bytes }, path: checkObject(root, step, record) };
}
