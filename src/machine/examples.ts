/** One complete, minimal manifest for each operation, as tests and the fuzzer start from. */
import { actualLane, appleLane, demoLane, type LaneContract, runtimeSurfaceId } from "./contract.ts";
import { buildDigest, type SourceState } from "./identity.ts";
import { invocationManifest, type StageAssignment } from "./manifest.ts";

export type Example = Record<string, unknown>;

/** Where examples are to run: as whom, and in which run root. */
export type ExamplePlace = {
  readonly source: SourceState;
  readonly ref: string;
  readonly root: (run: string) => string;
};

function example(lane: LaneContract, place: ExamplePlace, fields: Example): Example {
  return {
    ...{ schema_version: invocationManifest.id, runtime_surface_id: runtimeSurfaceId, lane_id: lane.id },
    ...{ coordination: { node_pubkey: "npub1-node-a" } },
    admission_identity: {
      release_id: lane.releaseId,
      build_digest: buildDigest(lane, place.source),
      environment_ref: lane.environmentRef,
    },
    ...{ selected_git_ref: place.ref, allow_dirty_tree: false, dry_run: false },
    ...{ inject_failed_upload: false, inject_eval_worker_unavailable: false },
    ...fields,
  };
}

const worker = { role: "worker" };
const recovery = { role: "recovery_source" };
const small = { work_class: "small_model_local_training" };
const full = { work_class: "full_island_local_update_training" };
const bound = { network_id: "network.example", window_id: "window-0001", assignment_id: "assignment-0001" };
const observed = "fixtures/psion/pretrain/psion_actual_pretraining";

const artifact = (role: string, digest: string, bytes: number) => ({
  artifact_ref: {
    artifact_id: `psionic.train.artifact.${role}.${digest}`,
    ...{ artifact_digest: digest, artifact_bytes: bytes },
  },
});

export const egressStage = {
  ...{ replica_id: "replica-01", stage_id: "stage-02", stage_index: 1, stage_count: 2 },
  ...{ stage_role: "egress", upstream_stage_id: "stage-01", downstream_stage_id: null },
  assignment_digest: "554e78d5d7422458220828d28158f3bed730c7f24a07d94d83b2d90d77ad2df8",
} as const satisfies StageAssignment;

/** By name; digests are left for `manifest_digest` to be filled in. */
export function exampleManifests(place: ExamplePlace): Readonly<Record<string, Example>> {
  const { root } = place;
  const apple = (fields: Example) => example(appleLane, place, { ...small, ...fields });
  const actual = (fields: Example) => example(actualLane, place, { ...full, ...fields });
  return {
    start: example(demoLane, place, {
      ...{ ...worker, ...small, operation: "start", run_id: "run-0001", output_root: root("run-0001") },
    }),
    rehearse_base_lane: actual({
      ...{ ...worker, operation: "rehearse_base_lane", run_id: "run-0004", output_root: root("run-0004") },
      hardware_observation_path: `${observed}_hardware_observation_admitted_v1.json`,
      run_shape_observation_path: `${observed}_run_shape_observation_admitted_v1.json`,
    }),
    record_checkpoint: apple({
      ...{ ...worker, operation: "record_checkpoint", run_root: root("run-0002") },
      coordination: { ...bound, node_pubkey: "npub1-node-a", membership_revision: 1 },
      ...{ checkpoint_label: "window-0001-final", optimizer_step: 2048 },
      checkpoint_ref: "checkpoint://example/window-0001/final",
    }),
    backup: actual({ ...worker, operation: "backup", run_root: root("run-0003") }),
    decide_continue_restart: actual({
      ...{ ...recovery, operation: "decide_continue_restart", run_root: root("run-0003") },
    }),
    serve_checkpoint: apple({
      ...{ ...recovery, operation: "serve_checkpoint", run_root: root("run-0002") },
      peer_node_pubkey: "npub1-node-b",
    }),
    resume: apple({
      ...{ ...recovery, operation: "resume", run_root: root("run-0005") },
      coordination: { node_pubkey: "npub1-node-b" },
      peer_checkpoint_handoff_receipt: artifact(
        ...([
          "checkpoint_handoff_receipt",
          "1bf6995b0effcd7872010ef9a24ed2162180c49f3f320abbf8fa8e2a61bba21f",
          23,
        ] as const),
      ),
    }),
    validate_contribution: apple({
      ...{ role: "validator", operation: "validate_contribution", work_class: "validation_replay" },
      coordination: { ...bound, challenge_id: "challenge-0001", node_pubkey: "npub1-validator" },
      ...{ run_id: "validator-run-0001", run_root: root("validator-run-0001") },
      validator_target_contribution_receipt: artifact(
        ...([
          "contribution_receipt",
          "b749f5c7505ec2a11f6fdb6ca652b1c44a6bdd2f3e2178fc46032789ac38db96",
          15,
        ] as const),
      ),
      validator_target_contribution_artifact_manifest: artifact(
        ...([
          "contribution_artifact_manifest",
          "89333bc71f02c647533ab52e592ad22c609728f12eabff6fda0920109db40401",
          16,
        ] as const),
      ),
      validator_target_work_class: "small_model_local_training",
    }),
    grouped_start: apple({
      ...{ ...worker, operation: "start", run_id: "run-0006", output_root: root("run-0006") },
      work_class: "grouped_replica_stage_execution",
      coordination: { ...bound, node_pubkey: "npub1-node-b", membership_revision: 1 },
      grouped_stage_assignment: egressStage,
      grouped_stage_input_transport: {
        artifact_ref: { artifact_id: "psionic.train.artifact.grouped_stage_input_transport.example" },
        materialized_path: "/srv/psionic/in/grouped_stage_output_transport.json",
      },
    }),
  };
}
