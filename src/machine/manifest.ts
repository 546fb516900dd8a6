/** `psionic.train.invocation_manifest.v1`: one operation on one run root, as a supervisor asks for it. */
import * as v from "valibot";
import { operations, roles, workClasses } from "./contract.ts";
import { type Content, digestOf, document } from "./documents.ts";
import { bool, maybe, oneOf, orNull, record, str, u32, u64 } from "./fields.ts";

/** Where the work stands in the network; repeated in all packets. */
export const coordinationFields = record({
  network_id: orNull(str),
  window_id: orNull(str),
  assignment_id: orNull(str),
  challenge_id: orNull(str),
  node_pubkey: orNull(str),
  membership_revision: orNull(u64),
});
export type Coordination = v.InferOutput<typeof coordinationFields>;

export const emptyCoordination: Coordination = {
  ...{ network_id: null, window_id: null, assignment_id: null, challenge_id: null },
  ...{ node_pubkey: null, membership_revision: null },
};

/** A reference to bytes by identity, with a local hint where they lie. */
export const binding = record({
  artifact_ref: record({ artifact_id: str, artifact_digest: maybe(str), artifact_bytes: maybe(u64) }),
  materialized_path: maybe(str),
});
export type Binding = v.InferOutput<typeof binding>;

export const stageRoles = ["ingress", "intermediate", "egress"] as const;

export const stageAssignment = record({
  replica_id: str,
  stage_id: str,
  stage_index: u32,
  stage_count: u32,
  stage_role: oneOf(stageRoles),
  upstream_stage_id: orNull(str),
  downstream_stage_id: orNull(str),
  assignment_digest: str,
});
export type StageAssignment = v.InferOutput<typeof stageAssignment>;

export const invocationManifest = document(
  "psionic.train.invocation_manifest.v1",
  {
    runtime_surface_id: str,
    lane_id: str,
    role: oneOf(roles),
    operation: oneOf(operations),
    work_class: oneOf(workClasses),
    coordination: v.optional(coordinationFields, {}),
    grouped_stage_assignment: orNull(stageAssignment),
    admission_identity: record({ release_id: str, build_digest: str, environment_ref: str }),
    run_id: orNull(str),
    output_root: orNull(str),
    run_root: orNull(str),
    peer_node_pubkey: orNull(str),
    peer_checkpoint_handoff_receipt: orNull(binding),
    validator_target_contribution_receipt: orNull(binding),
    validator_target_contribution_artifact_manifest: orNull(binding),
    validator_target_work_class: orNull(oneOf(workClasses)),
    grouped_stage_input_transport: orNull(binding),
    selected_git_ref: orNull(str),
    hardware_observation_path: orNull(str),
    run_shape_observation_path: orNull(str),
    allow_dirty_tree: bool,
    dry_run: bool,
    checkpoint_label: orNull(str),
    optimizer_step: orNull(u64),
    checkpoint_ref: orNull(str),
    checkpoint_object_digest: orNull(str),
    checkpoint_total_bytes: orNull(u64),
    inject_failed_upload: bool,
    inject_eval_worker_unavailable: bool,
    manifest_digest: orNull(str),
  },
  { field: "manifest_digest", prefix: "", empty: null },
);
export type InvocationManifest = Content<typeof invocationManifest>;

/** Over the parsed manifest, every key in order, so that the file's own bytes play no part. */
export function manifestDigest(manifest: InvocationManifest): string {
  return digestOf({ field: "manifest_digest", prefix: "", empty: null }, manifest);
}

const stageRule = { field: "assignment_digest", prefix: "psionic_train_grouped_replica_stage_assignment|" };

export function stageDigest(stage: StageAssignment): string {
  // keys in their order, whoever made the object
  return digestOf(stageRule, v.parse(stageAssignment, stage));
}
