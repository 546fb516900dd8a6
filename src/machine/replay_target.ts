/** What a validator is asked to judge: a contribution's documents, found, verified and held against each other and the assignment. */
import { refuse } from "./contract.ts";
import { type ExecutionEvidence, executionEvidence } from "./evidence.ts";
import { contributorRoot, type Found, replayed, resolveInput } from "./replay_inputs.ts";
import { type CheckpointSurface, checkpointSurface } from "./surface.ts";
import type { Invocation } from "./surfaces.ts";
import {
  type ArtifactManifest,
  artifactManifest,
  type ContributionReceipt,
  contributionReceipt,
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
  const receiptFile = resolveInput(receiptBinding, "contribution_receipt", [root.root]);
  const receipt = replayed(contributionReceipt, receiptFile);
  const listFile = resolveInput(listBinding, "contribution_artifact_manifest", [root.root]);
  const listed = replayed(artifactManifest, listFile);
  const roots = [root.root, contributorRoot(listFile.path)];
  const files = new Map<string, Found>();
  for (const { artifact_kind, binding } of listed.artifacts) {
    if (files.has(artifact_kind))
      refuse("artifact_digest_mismatch", `two artifacts of kind ${artifact_kind}`);
    files.set(artifact_kind, resolveInput(binding, artifact_kind, roots));
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

/** Steps 4 to 10: everything names the same work, and that is the work of this assignment. */
export function checkAgreement({ manifest, lane }: Invocation, { receipt, listed, surface }: Target): void {
  const drift = (what: string): never =>
    refuse("artifact_digest_mismatch", `the contribution's ${what} drifted`);
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
  if (receipt.grouped_stage_assignment !== null || listed.grouped_stage_assignment !== null) drift("stage");
  if (receipt.outcome === "succeeded" && !surface)
    refuse("checkpoint_missing", "a succeeded contribution without a checkpoint surface");
}

const plain = (digest: string | undefined): string | undefined =>
  digest?.toLowerCase().replace(/^sha256:/, "");
