/** Lanes that train window after window and keep the generic family of checkpoints: the Apple lane and the adapter lane. */
import { PsionicError } from "../../core/error.ts";
import { checkpointManifest, checkpointPointer } from "../checkpoint.ts";
import { Refusal, refuse } from "../contract.ts";
import { sealed } from "../documents.ts";
import type { LaneProfile } from "../evidence.ts";
import { manifestPathOf, pointerPath } from "../layout.ts";
import type { RunRoot } from "../run_root.ts";
import { genericCheckpoint } from "../surface.ts";
import { type Invocation, resolvedRunId } from "../surfaces.ts";
import { profileOf } from "./profile.ts";
import { checkObject, recordedObject } from "./record_object.ts";
import { trainWindow } from "./train_window.ts";
import { planWindow, stepShapes, type WindowPlan } from "./window_plan.ts";
import type { TrainedWindow } from "./window_run.ts";

/** Does the operation and says in a sentence what was done. */
export function performWindowed(invocation: Invocation): string {
  const { manifest, lane } = invocation;
  switch (manifest.operation) {
    case "start":
    case "rehearse_base_lane":
      return train(invocation);
    case "record_checkpoint":
      return recordGeneric(invocation);
    case "resume":
      return resumeGeneric(invocation);
    case "backup":
    case "decide_continue_restart":
      return `Lane ${lane.id} keeps no files of its own for ${manifest.operation}; status was written.`;
    default:
      return refuse("internal_error", `lane ${lane.id} has no ${manifest.operation}`);
  }
}

/** The plan of the profile in the run root, or of the lane's own. */
export const lanePlan = ({ root, lane }: Invocation): WindowPlan => planOf(root, profileOf(root, lane));

/** The plan of a profile whose files lie in the run root. */
export function planOf(root: RunRoot, profile: LaneProfile): WindowPlan {
  return planWindow(profile, (path) => {
    if (!root.has(path))
      return refuse("artifact_incomplete", `${root.path(path)} is not there; the profile names it`);
    return root.bytes(path);
  });
}

/** What a window came to, in a sentence. */
export function told({ window, steps, end }: TrainedWindow): string {
  const [first, last] = [steps[0]!, steps.at(-1)!];
  return `Took steps ${window.first} to ${window.last}; loss ${first.loss} at first, ${last.loss} at last; state ${end.object_digest}.`;
}

/** What would be trained; sizes that do not go together are refused here as they are by the steps. */
export function planned(plan: WindowPlan, done: number): string {
  stepShapes(plan);
  return `Planned steps ${done + 1} to ${done + plan.profile.steps} of ${plan.model.id}; nothing was trained.`;
}

function train(invocation: Invocation): string {
  const plan = lanePlan(invocation);
  return invocation.manifest.dry_run ? planned(plan, 0) : told(trainWindow(invocation, plan));
}

/** Accepts the state after a step: its manifest with real digest and size, then the pointer to it. */
export function recordGeneric(invocation: Invocation): string {
  const { root, manifest, lane } = invocation;
  const { step, fresh: _, ...object } = recordedObject(root, manifest);
  const { window_id, assignment_id } = manifest.coordination;
  const common = {
    ...{ lane_id: lane.id, run_id: resolvedRunId(invocation) },
    ...(window_id !== null && assignment_id !== null && { window_id, assignment_id }),
    grouped_stage_assignment: manifest.grouped_stage_assignment ?? undefined,
    ...{ checkpoint_label: manifest.checkpoint_label ?? "", optimizer_step: step },
    checkpoint_ref: manifest.checkpoint_ref ?? "",
  };
  const path = manifestPathOf(step);
  root.write(path, sealed(checkpointManifest, { ...common, relative_manifest_path: path, ...object }));
  root.write(
    pointerPath,
    sealed(checkpointPointer, {
      ...common,
      pointer_state: "accepted",
      checkpoint_manifest_relative_path: path,
      detail: "Written after the checkpoint and its manifest.",
    }),
  );
  return `Accepted step ${step} as ${manifest.checkpoint_label}, ${object.checkpoint_total_bytes} bytes.`;
}

/** Trains the next window from the accepted checkpoint. */
function resumeGeneric(invocation: Invocation): string {
  const { root, lane, manifest } = invocation;
  const accepted = acceptedGeneric(invocation);
  if (accepted.lane_id !== lane.id)
    return refuse(
      "checkpoint_digest_mismatch",
      `the checkpoint is of lane ${accepted.lane_id}, not ${lane.id}`,
    );
  const plan = lanePlan(invocation);
  const step = Number(accepted.optimizer_step);
  if (manifest.dry_run) return planned(plan, step);
  const path = checkObject(root, step, accepted);
  const { checkpoint_object_digest: object_digest, checkpoint_total_bytes: object_bytes } = accepted;
  return told(trainWindow(invocation, plan, { state: { step, object_digest, object_bytes }, path }));
}

/** None is `checkpoint_missing`; one that does not hold together is `checkpoint_digest_mismatch`. */
function acceptedGeneric({ root }: Invocation) {
  if (!root.has(pointerPath))
    return refuse("checkpoint_missing", `no accepted checkpoint to resume from in ${root.root}`);
  try {
    const { manifest } = genericCheckpoint(root);
    return { ...manifest, checkpoint_total_bytes: Number(manifest.checkpoint_total_bytes) };
  } catch (cause) {
    if (cause instanceof Refusal || !(cause instanceof PsionicError)) throw cause;
    return refuse("checkpoint_digest_mismatch", cause.message, cause);
  }
}
