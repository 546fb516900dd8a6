/** What a validator is asked to judge: a contribution's documents, found, verified and held against each other and the assignment. */
import { orderedJson } from "../core/json.ts";
import { isLaunch, labelOf, refusals, refuse } from "./contract.ts";
import { type ExecutionEvidence, executionEvidence } from "./evidence.ts";
import { type InvocationManifest, invocationManifest, manifestDigest } from "./manifest.ts";
import { contributorRoot, type Found, replayed, resolveInput } from "./replay_inputs.ts";
import { checkPapers } from "./replay_papers.ts";
import { type CheckpointSurface, checkpointSurface } from "./surface.ts";
import type { Invocation } from "./surfaces.ts";
import {
  type ArtifactManifest,
  artifactManifest,
  type ContributionReceipt,
  contributionId,
  contributionReceipt,
  windowExecutionId,
} from "./window.ts";

export type Target = {
  readonly receipt: ContributionReceipt;
  readonly listed: ArtifactManifest;
  readonly surface: CheckpointSurface | undefined;
  readonly evidence: ExecutionEvidence | undefined;
  /** Artifacts of the contribution by kind, each what the manifest binds. */
  readonly files: ReadonlyMap<string, Found>;
};

/** Steps 1 to 3: every document and every artifact, each what it is bound as. Throws a `Refusal`. */
export function readTarget({ manifest, root }: Invocation): Target {
  const receiptBinding = manifest.validator_target_contribution_receipt;
  const listBinding = manifest.validator_target_contribution_artifact_manifest;
  if (receiptBinding === null || listBinding === null)
    return refuse("bad_config", "the target bindings must be given");
  const receiptFile = resolveInput(receiptBinding, "contribution_receipt", [root.root], "trusted");
  const receipt = replayed(contributionReceipt, receiptFile);
  const listFile = resolveInput(listBinding, "contribution_artifact_manifest", [root.root], "trusted");
  const listed = replayed(artifactManifest, listFile);
  const roots = [root.root, contributorRoot(listFile.path)];
  const files = new Map<string, Found>();
  for (const { artifact_kind, binding } of listed.artifacts) {
    if (files.has(artifact_kind))
      refuse("artifact_digest_mismatch", `two artifacts of kind ${artifact_kind}`);
    files.set(artifact_kind, resolveInput(binding, artifact_kind, roots, "foreign"));
  }
  const surface = files.get("checkpoint_surface");
  const evidence = files.get("execution_evidence");
  return {
    receipt,
    listed,
    surface: surface && replayed(checkpointSurface, surface),
    evidence: evidence && replayed(executionEvidence, evidence),
    files,
  };
}

function drift(what: string): never {
  return refuse("artifact_digest_mismatch", `the contribution's ${what} drifted`);
}

/** Steps 4 to 10: everything names the same work, and that is the work of this assignment. */
export function checkAgreement({ manifest, lane }: Invocation, target: Target): void {
  const { receipt, listed, surface } = target;
  const bound = manifest.validator_target_contribution_artifact_manifest?.artifact_ref;
  const named = receipt.artifact_manifest.artifact_ref;
  if (
    named.artifact_id !== bound?.artifact_id ||
    plain(named.artifact_digest) !== plain(bound?.artifact_digest)
  )
    drift("artifact manifest reference");
  if (receipt.artifact_manifest_digest !== listed.artifact_manifest_digest) drift("artifact manifest digest");
  if (receipt.artifact_count !== listed.artifact_count || listed.artifact_count !== listed.artifacts.length)
    drift("artifact count");
  for (const part of [receipt, listed]) {
    if (part.work_class !== manifest.validator_target_work_class) drift("work class");
    if (part.lane_id !== lane.id) drift("lane");
  }
  for (const field of ["run_id", "window_id", "assignment_id", "contribution_id", "node_pubkey"] as const) {
    if (receipt[field] !== listed[field]) drift(field);
  }
  const { window_id, assignment_id } = manifest.coordination;
  if (receipt.window_id !== window_id || receipt.assignment_id !== assignment_id)
    refuse("stale_assignment", "the contribution is of another window or assignment");
  const grouped = manifest.validator_target_work_class === "grouped_replica_stage_execution";
  if (!grouped && (receipt.grouped_stage_assignment !== null || listed.grouped_stage_assignment !== null))
    drift("stage");
  const asked = checkReceipt(target);
  const network = manifest.coordination.network_id;
  if (network !== null && asked.coordination.network_id !== network)
    refuse("stale_assignment", "the contribution is of another network");
  if (receipt.outcome === "refused") return;
  if (!surface) refuse("checkpoint_missing", "a succeeded contribution without a checkpoint surface");
  checkPapers(target, asked);
}

/** What a receipt repeats or is made from must be so: ids, the outcome's parts, and what its own manifest asked for. */
function checkReceipt({ receipt, files }: Target): InvocationManifest {
  const succeeded = receipt.outcome === "succeeded";
  const meaning = receipt.refusal_class === null ? undefined : refusals[receipt.refusal_class];
  const [exitCode, retryable, owner] = meaning
    ? [meaning.exitCode, meaning.retryable, meaning.owner]
    : [0, false, "pylon"];
  const whole =
    succeeded === (meaning === undefined) &&
    receipt.exit_code === exitCode &&
    receipt.retryable === retryable &&
    receipt.authority_owner === owner;
  if (!whole) drift("outcome");
  const work = {
    ...{ laneId: receipt.lane_id, runId: receipt.run_id, windowId: receipt.window_id },
    ...{ assignmentId: receipt.assignment_id, node: receipt.node_pubkey },
    ...{ networkId: null, stage: receipt.grouped_stage_assignment },
  };
  if (contributionId(work) !== receipt.contribution_id) drift("contribution_id");
  const file =
    files.get("invocation_manifest") ??
    refuse("artifact_incomplete", "a contribution without its invocation_manifest");
  const asked = replayed({ ...invocationManifest, digest: undefined }, file);
  if (asked.manifest_digest !== null && asked.manifest_digest !== manifestDigest(asked))
    drift("invocation_manifest");
  const { network_id, window_id, assignment_id, node_pubkey } = asked.coordination;
  if (window_id !== receipt.window_id || assignment_id !== receipt.assignment_id)
    refuse("stale_assignment", "the contribution was asked for by another window's or assignment's manifest");
  const same =
    asked.lane_id === receipt.lane_id &&
    asked.role === receipt.role &&
    asked.work_class === receipt.work_class &&
    labelOf(asked.operation) === receipt.operation &&
    node_pubkey === receipt.node_pubkey &&
    orderedJson(asked.grouped_stage_assignment) === orderedJson(receipt.grouped_stage_assignment) &&
    (!isLaunch(asked.operation) || asked.run_id === receipt.run_id);
  if (!same) drift("invocation_manifest");
  if (windowExecutionId({ ...work, networkId: network_id }) !== receipt.window_execution_id)
    drift("window_execution_id");
  return asked;
}

const plain = (digest: string | undefined): string | undefined =>
  digest?.toLowerCase().replace(/^sha256:/, "");
