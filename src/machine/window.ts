/** Window artifacts: what a contribution to a window leaves behind, bound together by digests. */
import {
  labelOf,
  type Operation,
  outcomes,
  owners,
  type Role,
  refusalClasses,
  roles,
  workClasses,
} from "./contract.ts";
import { type Content, document, idOf } from "./documents.ts";
import { bool, count, listOf, oneOf, orNull, record, str, u8, u64 } from "./fields.ts";
import { binding, type Coordination, type StageAssignment, stageAssignment } from "./manifest.ts";

const workClass = oneOf(workClasses);
const optionalStage = orNull(stageAssignment);

export const windowExecution = document(
  "psionic.train.window_execution.v1",
  {
    lane_id: str,
    work_class: workClass,
    network_id: orNull(str),
    run_id: str,
    window_id: str,
    challenge_id: orNull(str),
    window_execution_id: str,
    current_assignment: record({
      assignment_id: str,
      contribution_id: str,
      node_pubkey: str,
      role: oneOf(roles),
      membership_revision: orNull(u64),
      grouped_stage_assignment: optionalStage,
      assignment_materialization_digest: str,
    }),
    grouped_stage_assignment: optionalStage,
    runtime_build_digest: str,
    capability_backend_family: str,
    capability_topology_class: str,
    detail: str,
    window_digest: str,
  },
  { field: "window_digest", prefix: "psionic_train_window_execution|" },
);
export type WindowExecution = Content<typeof windowExecution>;

export const artifactManifest = document(
  "psionic.train.contribution_artifact_manifest.v1",
  {
    lane_id: str,
    work_class: workClass,
    run_id: str,
    window_id: str,
    assignment_id: str,
    contribution_id: str,
    node_pubkey: str,
    grouped_stage_assignment: optionalStage,
    artifact_count: count,
    artifacts: listOf(record({ artifact_kind: str, binding })),
    artifact_manifest_digest: str,
  },
  {
    ...{ field: "artifact_manifest_digest", prefix: "psionic_train_contribution_artifact_manifest|" },
    stripPaths: true,
  },
);
export type ArtifactManifest = Content<typeof artifactManifest>;

export const contributionReceipt = document(
  "psionic.train.contribution_receipt.v1",
  {
    lane_id: str,
    work_class: workClass,
    run_id: str,
    window_id: str,
    window_execution_id: str,
    assignment_id: str,
    contribution_id: str,
    node_pubkey: str,
    grouped_stage_assignment: optionalStage,
    role: oneOf(roles),
    operation: str,
    outcome: oneOf(outcomes),
    exit_code: u8,
    retryable: bool,
    authority_owner: oneOf(owners),
    refusal_class: orNull(oneOf(refusalClasses)),
    artifact_manifest: binding,
    artifact_manifest_digest: str,
    artifact_count: count,
    contribution_digest: str,
    detail: str,
  },
  {
    ...{ field: "contribution_digest", prefix: "psionic_train_contribution_receipt|" },
    stripPaths: true,
  },
);
export type ContributionReceipt = Content<typeof contributionReceipt>;

export const sealedWindowBundle = document(
  "psionic.train.sealed_window_bundle.v1",
  {
    lane_id: str,
    network_id: orNull(str),
    run_id: str,
    window_id: str,
    window_execution_path: str,
    contribution_count: count,
    artifact_manifest_count: count,
    contributions: listOf(
      record({
        assignment_id: str,
        contribution_id: str,
        node_pubkey: str,
        work_class: workClass,
        grouped_stage_assignment: optionalStage,
        outcome: oneOf(outcomes),
        artifact_manifest_digest: str,
        contribution_digest: str,
        contribution_receipt_path: str,
      }),
    ),
    contribution_rollup_digest: str,
    detail: str,
    sealed_window_digest: str,
  },
  { field: "sealed_window_digest", prefix: "psionic_train_sealed_window_bundle|" },
);
export type SealedWindowBundle = Content<typeof sealedWindowBundle>;

/** What the ids of a window's work are made from. */
export type WorkIdentity = {
  readonly laneId: string;
  readonly runId: string;
  readonly windowId: string;
  readonly assignmentId: string;
  readonly node: string;
  readonly networkId: string | null;
  readonly stage: StageAssignment | null;
};

/** The identity of work that is bound to a window; undefined where it is not. */
export function workIdentity(
  laneId: string,
  runId: string,
  { window_id, assignment_id, node_pubkey, network_id }: Coordination,
  stage: StageAssignment | null,
): WorkIdentity | undefined {
  if (window_id === null || assignment_id === null || node_pubkey === null) return undefined;
  return {
    ...{ laneId, runId, windowId: window_id, assignmentId: assignment_id },
    ...{ node: node_pubkey, networkId: network_id, stage },
  };
}

const stagePart = ({ stage }: WorkIdentity): string => stage?.assignment_digest ?? "";

export function windowExecutionId(w: WorkIdentity): string {
  const parts = [w.laneId, w.networkId ?? "", w.runId, w.windowId, stagePart(w)];
  return idOf("psionic_train_window_execution_id|", parts);
}

/** The operation is no part of it: later operations on an assignment describe the same contribution. */
export function contributionId(w: WorkIdentity): string {
  const parts = [w.laneId, w.runId, w.windowId, w.assignmentId, w.node, stagePart(w)];
  return idOf("psionic_train_contribution_id|", parts);
}

export function assignmentMaterialization(
  w: WorkIdentity,
  revision: number | bigint | null,
  role: Role,
  operation: Operation,
): string {
  const parts = [windowExecutionId(w), w.assignmentId, w.node, revision === null ? "" : String(revision)];
  return idOf("psionic_train_assignment_materialization|", [
    ...parts,
    stagePart(w),
    role,
    labelOf(operation),
  ]);
}

type Listed = SealedWindowBundle["contributions"][number];

/** Over the entries in order. */
export function rollupDigest(contributions: readonly Listed[]): string {
  const parts = contributions.flatMap((c) => [
    ...[c.assignment_id, c.contribution_id, c.artifact_manifest_digest, c.contribution_digest],
  ]);
  return idOf("psionic_train_sealed_window_rollup|", parts);
}
