/** The actual lane's documents: pointer, manifest, status, summary, launch and resume manifests. */
import { appendFileSync } from "node:fs";
import { actualManifest, actualPointer } from "../checkpoint.ts";
import { sealed } from "../documents.ts";
import {
  launcherLogPath,
  launchManifestPath,
  pointerPath,
  resumeManifestPath,
  retainedSummaryPath,
  statusPath,
} from "../layout.ts";
import { type Invocation, resolvedRunId } from "../surfaces.ts";
import {
  currentRunStatus,
  launchManifest,
  type phases,
  resumeManifest,
  retainedSummary,
} from "./actual_documents.ts";
import type { Accepted } from "./actual_recovery.ts";
import { observedDigests } from "./observations.ts";
import type { ObjectRecord } from "./record_object.ts";
import type { WindowPlan } from "./window_plan.ts";

export const claimBoundary =
  "Steps of the lane's profile were run and their states hashed; nothing is claimed beyond that.";
const recipe = "psion_actual_pretraining_recipe_v1";
export const pendingLabel = "pending_first_checkpoint";

export type Phase = (typeof phases)[number];

export const headOf = (invocation: Invocation) => ({
  lane_id: invocation.lane.id,
  run_id: resolvedRunId(invocation),
});

/** The source that this process runs, as documents of the lane name it. */
export const gitOf = ({ manifest, attestation }: Invocation) => ({
  selected_git_ref: manifest.selected_git_ref ?? "",
  git_commit_sha: attestation.git_commit_sha,
  dirty_tree_admission: attestation.dirty_tree_admission,
  workspace_status_sha256: attestation.workspace_status_sha256,
});

export type At = { readonly label: string; readonly step: number };

/** Where the run stands: current status, what outlives it, and a line in the log. */
export function writeStatus(invocation: Invocation, phase: Phase, { label, step }: At, detail: string): void {
  const { root, now } = invocation;
  const head = headOf(invocation);
  const progress = { latest_checkpoint_label: label, last_completed_step: step };
  root.write(
    statusPath,
    sealed(currentRunStatus, { ...head, phase, ...progress, updated_at_ms: now, detail }),
  );
  root.write(
    retainedSummaryPath,
    sealed(retainedSummary, {
      ...{ ...head, last_known_phase: phase, ...gitOf(invocation) },
      ...{ ...progress, claim_boundary: claimBoundary, detail },
    }),
  );
  appendFileSync(root.place(launcherLogPath), `phase=${phase} step=${step} checkpoint_label=${label}\n`);
}

/** Begins the pointer anew, whatever it said: a start has no checkpoint yet. */
export function writePendingPointer(invocation: Invocation): void {
  invocation.root.write(
    pointerPath,
    sealed(actualPointer, {
      ...headOf(invocation),
      ...{ pointer_state: "pending_first_checkpoint", checkpoint_label: pendingLabel, optimizer_step: 0 },
      ...{ checkpoint_ref: null, checkpoint_manifest_relative_path: null },
      detail: "No checkpoint was accepted yet.",
    }),
  );
}

export const actualManifestPath = (step: number | bigint): string =>
  `checkpoints/step-${step}/checkpoint_manifest.json`;

/** Manifest, then pointer, of an accepted checkpoint. */
export function acceptActual(
  invocation: Invocation,
  { label, step }: At,
  ref: string,
  object: ObjectRecord,
  dataset: string,
): Accepted {
  const { root } = invocation;
  const common = { checkpoint_label: label, optimizer_step: step, checkpoint_ref: ref };
  const path = actualManifestPath(step);
  const manifest = sealed(actualManifest, {
    ...headOf(invocation),
    ...{ recipe_id: recipe, ...common, relative_manifest_path: path },
    relative_checkpoint_dir: `checkpoints/step-${step}`,
    ...{ ...object, dataset_identity: dataset, ...gitOf(invocation) },
    detail: "Digest and size are of the bytes in the checkpoint's folder.",
  });
  root.write(path, manifest);
  const pointer = sealed(actualPointer, {
    ...headOf(invocation),
    ...{ pointer_state: "accepted", ...common, checkpoint_manifest_relative_path: path },
    detail: "Written after the checkpoint and its manifest.",
  });
  root.write(pointerPath, pointer);
  return { pointer, manifest };
}

export function writeLaunch(invocation: Invocation, plan: WindowPlan, from: At): void {
  const { root, manifest, attestation } = invocation;
  const resumed = manifest.operation === "resume";
  const launch = {
    ...headOf(invocation),
    ...{ operation: manifest.operation, dry_run: manifest.dry_run },
    ...gitOf(invocation),
    build_digest: attestation.build_digest,
    ...{ checkpoint_label: from.label, optimizer_step: from.step },
    ...{ lane_profile_digest: plan.profile.profile_digest, steps_per_window: plan.profile.steps },
    ...observedDigests(invocation),
    claim_boundary: claimBoundary,
  };
  if (resumed) root.write(resumeManifestPath, sealed(resumeManifest, launch));
  else root.write(launchManifestPath, sealed(launchManifest, launch));
}
