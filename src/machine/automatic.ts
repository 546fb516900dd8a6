/** Automatic execution: an assignment for a node turned into a manifest, and the files that carrying it out will leave. */
import { basename } from "node:path";
import * as v from "valibot";
import {
  actualLane,
  demoLane,
  isLaunch,
  type LaneContract,
  operations,
  refuse,
  roles,
  runtimeSurfaceId,
  workClasses,
} from "./contract.ts";
import { type Content, document, sealed } from "./documents.ts";
import { bool, oneOf, orNull, str, u64 } from "./fields.ts";
import * as layout from "./layout.ts";
import {
  binding,
  coordinationFields,
  type InvocationManifest,
  invocationManifest,
  manifestDigest,
} from "./manifest.ts";
import { checkManifest } from "./manifest_rules.ts";
import { artifactPaths, artifactPathsOf } from "./packets.ts";
import { contributionId, workIdentity } from "./window.ts";

const flag = v.optional(bool, false);
const coordination = v.optional(coordinationFields, {});

export const actualRequest = document("psion.actual_pretraining_automatic_execution_request.v1", {
  role: oneOf(roles),
  operation: oneOf(operations),
  coordination,
  build_digest: str,
  run_id: str,
  output_root: orNull(str),
  run_root: orNull(str),
  selected_git_ref: str,
  hardware_observation_path: orNull(str),
  run_shape_observation_path: orNull(str),
  peer_node_pubkey: orNull(str),
  peer_checkpoint_handoff_receipt: orNull(binding),
  checkpoint_label: orNull(str),
  optimizer_step: orNull(u64),
  checkpoint_ref: orNull(str),
  checkpoint_object_digest: orNull(str),
  checkpoint_total_bytes: orNull(u64),
  allow_dirty_tree: flag,
  dry_run: flag,
  inject_failed_upload: flag,
  inject_eval_worker_unavailable: flag,
});

export const demoRequest = document("psion.cs336_a1_demo_automatic_execution_request.v1", {
  role: oneOf(["worker"]),
  operation: oneOf(["start", "rehearse_base_lane"]),
  coordination,
  build_digest: str,
  run_id: str,
  output_root: orNull(str),
  run_root: orNull(str),
  selected_git_ref: str,
  allow_dirty_tree: flag,
  dry_run: flag,
});

const outputFields = {
  lane_id: str,
  role: oneOf(roles),
  operation: oneOf(operations),
  work_class: oneOf(workClasses),
  run_id: str,
  run_root: str,
  window_root: orNull(str),
  operation_manifest_path: orNull(str),
  current_status_path: orNull(str),
  retained_summary_path: orNull(str),
  launcher_log_path: orNull(str),
  run_status_packet_path: str,
  window_status_packet_path: str,
  artifacts: artifactPaths,
};
export const actualOutputs = document(
  "psion.actual_pretraining_automatic_execution_outputs.v1",
  outputFields,
);
export const demoOutputs = document("psion.cs336_a1_demo_automatic_execution_outputs.v1", outputFields);

type Request = Content<typeof actualRequest> | Content<typeof demoRequest>;

const laneOf = (request: Request): LaneContract =>
  request.schema_version === demoRequest.id ? demoLane : actualLane;

/** The manifest of a request, checked, with its digest filled in. Throws a `Refusal`. */
export function manifestOf(request: Request): InvocationManifest {
  if (request.operation === "validate_contribution")
    return refuse("bad_config", "automatic execution does not compose validate_contribution");
  const lane = laneOf(request);
  const { schema_version: _, build_digest, ...given } = request;
  const unset = {
    ...{ hardware_observation_path: null, run_shape_observation_path: null, peer_node_pubkey: null },
    ...{ peer_checkpoint_handoff_receipt: null, checkpoint_label: null, optimizer_step: null },
    ...{ checkpoint_ref: null, checkpoint_object_digest: null, checkpoint_total_bytes: null },
    ...{ inject_failed_upload: false, inject_eval_worker_unavailable: false },
  };
  const manifest = v.parse(invocationManifest.schema, {
    ...unset,
    ...given,
    schema_version: invocationManifest.id,
    runtime_surface_id: runtimeSurfaceId,
    lane_id: lane.id,
    work_class: lane === demoLane ? "small_model_local_training" : "full_island_local_update_training",
    admission_identity: { release_id: lane.releaseId, build_digest, environment_ref: lane.environmentRef },
  });
  const digested = { ...manifest, manifest_digest: manifestDigest(manifest) };
  checkManifest(digested);
  return digested;
}

/** What carrying out a request will leave, told from the request alone. */
export function outputsOf(request: Request): Content<typeof actualOutputs> | Content<typeof demoOutputs> {
  const manifest = manifestOf(request);
  const root = (isLaunch(manifest.operation) ? manifest.output_root : manifest.run_root) ?? "";
  const below = (path: string): string => `${root.replace(/\/$/, "")}/${path}`;
  const launch = isLaunch(manifest.operation);
  const kept = manifest.operation !== "serve_checkpoint";
  const work = workIdentity(manifest.lane_id, manifest.run_id ?? basename(root), manifest.coordination, null);
  const window = work && below(layout.windowFolder(work.windowId));
  const contribution = work && below(layout.contributionFolder(work.windowId, contributionId(work)));
  const content = {
    lane_id: manifest.lane_id,
    role: manifest.role,
    operation: manifest.operation,
    work_class: manifest.work_class,
    run_id: request.run_id,
    run_root: root,
    window_root: window ?? null,
    operation_manifest_path: launch
      ? below(layout.launchManifestPath)
      : manifest.operation === "resume"
        ? below(layout.resumeManifestPath)
        : null,
    current_status_path: kept ? below(layout.statusPath) : null,
    retained_summary_path: kept ? below(layout.retainedSummaryPath) : null,
    launcher_log_path: kept ? below(layout.launcherLogPath) : null,
    run_status_packet_path: below(layout.runPacketPath),
    window_status_packet_path: below(layout.windowPacketPath),
    artifacts: artifactPathsOf({
      launch_manifest_path: launch ? below(layout.launchManifestPath) : null,
      membership_revision_path: below(layout.membershipPath),
      checkpoint_surface_path: below(layout.surfacePath),
      checkpoint_pointer_path: below(layout.pointerPath),
      checkpoint_handoff_receipt_path: kept ? null : below(layout.handoffPath),
      recovery_receipt_path: manifest.operation === "resume" ? below(layout.autoResumePath) : null,
      ...(window && {
        window_execution_path: `${window}/window_execution.json`,
        sealed_window_bundle_path: `${window}/sealed_window_bundle.json`,
        contribution_receipt_path: `${contribution}/contribution_receipt.json`,
        contribution_artifact_manifest_path: `${contribution}/artifact_manifest.json`,
      }),
    }),
  };
  return request.schema_version === demoRequest.id
    ? sealed(demoOutputs, content)
    : sealed(actualOutputs, content);
}
