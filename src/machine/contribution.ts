/** A contribution to a window: copies of its evidence, the manifest that lists them, the receipt, and the window's bundle. */
import { readdirSync } from "node:fs";
import { labelOf } from "./contract.ts";
import { sealed } from "./documents.ts";
import { type ExecutionEvidence, executionEvidence } from "./evidence.ts";
import { copyName, evidenceFiles } from "./evidence_files.ts";
import {
  autoResumePath,
  backupReceiptPath,
  closeoutPath,
  contributionFolder,
  evidencePath,
  handoffPath,
  launcherLogPath,
  launchManifestPath,
  membershipPath,
  pointerPath,
  recoveryPath,
  retainedSummaryPath,
  statusPath,
  surfacePath,
  windowFolder,
} from "./layout.ts";
import type { ArtifactPaths, Outcome } from "./packets.ts";
import { stageArtifacts, type WrittenStage, writeStageEvidence } from "./stage_output.ts";
import { openEnvelope } from "./stage_transport.ts";
import type { Invocation } from "./surfaces.ts";
import {
  artifactManifest,
  assignmentMaterialization,
  contributionId,
  contributionReceipt,
  rollupDigest,
  sealedWindowBundle,
  type WorkIdentity,
  windowExecution,
  windowExecutionId,
} from "./window.ts";

/** Files of the run root by the kind that the artifact manifest lists them as. */
const evidence: Readonly<Record<string, string>> = {
  launch_manifest: launchManifestPath,
  membership_revision: membershipPath,
  checkpoint_surface: surfacePath,
  checkpoint_pointer: pointerPath,
  checkpoint_backup_receipt: backupReceiptPath,
  checkpoint_handoff_receipt: handoffPath,
  current_status: statusPath,
  retained_summary: retainedSummaryPath,
  launcher_log: launcherLogPath,
  final_closeout_bundle: closeoutPath,
};

type Written = Pick<
  ArtifactPaths,
  | "window_execution_path"
  | "contribution_receipt_path"
  | "contribution_artifact_manifest_path"
  | "sealed_window_bundle_path"
> &
  Partial<WrittenStage>;

/** Writes all of them; later operations on the same assignment replace the contribution. */
export function writeContribution(
  invocation: Invocation,
  work: WorkIdentity,
  outcome: Outcome,
  detail: string,
  checkpointManifestPath: string | undefined,
): Written {
  const { root, manifest } = invocation;
  const executionPath = writeExecution(invocation, work);
  const id = contributionId(work);
  const folder = contributionFolder(work.windowId, id);
  const identity = {
    ...{
      lane_id: work.laneId,
      work_class: manifest.work_class,
      run_id: work.runId,
      window_id: work.windowId,
    },
  };
  const contribution = {
    ...{ assignment_id: work.assignmentId, contribution_id: id, node_pubkey: work.node },
    grouped_stage_assignment: work.stage,
  };
  const staged = work.stage
    ? writeStageEvidence({ root, manifest, stage: work.stage, work }, outcome)
    : undefined;
  const artifacts = [
    ...copiedEvidence(invocation, folder, checkpointManifestPath),
    ...(staged ? stageArtifacts(root, folder) : []),
  ].sort((a, b) => (a.artifact_kind < b.artifact_kind ? -1 : 1));
  const listed = sealed(artifactManifest, {
    ...identity,
    ...contribution,
    artifact_count: artifacts.length,
    artifacts,
  });
  const manifestPath = `${folder}/artifact_manifest.json`;
  root.write(manifestPath, listed);
  const receiptPath = `${folder}/contribution_receipt.json`;
  const receipt = sealed(contributionReceipt, {
    ...identity,
    window_execution_id: windowExecutionId(work),
    ...contribution,
    ...{ role: manifest.role, operation: labelOf(manifest.operation) },
    ...outcome,
    artifact_manifest: root.bind("contribution_artifact_manifest", manifestPath),
    artifact_manifest_digest: listed.artifact_manifest_digest,
    artifact_count: artifacts.length,
    detail,
  });
  root.write(receiptPath, receipt);
  return {
    window_execution_path: root.path(executionPath),
    contribution_receipt_path: root.path(receiptPath),
    contribution_artifact_manifest_path: root.path(manifestPath),
    sealed_window_bundle_path: root.path(writeBundle(invocation, work, executionPath)),
    ...staged,
  };
}

function writeExecution({ root, manifest, attestation, capability }: Invocation, work: WorkIdentity): string {
  const { membership_revision, challenge_id } = manifest.coordination;
  const path = `${windowFolder(work.windowId)}/window_execution.json`;
  const execution = sealed(windowExecution, {
    lane_id: work.laneId,
    work_class: manifest.work_class,
    network_id: work.networkId,
    ...{ run_id: work.runId, window_id: work.windowId, challenge_id },
    window_execution_id: windowExecutionId(work),
    current_assignment: {
      assignment_id: work.assignmentId,
      contribution_id: contributionId(work),
      ...{ node_pubkey: work.node, role: manifest.role, membership_revision },
      grouped_stage_assignment: work.stage,
      assignment_materialization_digest: assignmentMaterialization(
        ...([work, membership_revision, manifest.role, manifest.operation] as const),
      ),
    },
    grouped_stage_assignment: work.stage,
    runtime_build_digest: attestation.build_digest,
    capability_backend_family: capability.backend_family,
    capability_topology_class: capability.topology_class,
    detail: `Latest assignment of window ${work.windowId}.`,
  });
  root.write(path, execution);
  return path;
}

/**
 * Copies live files into the contribution, since later operations write them again. Paths are relative to the run root, so
 * that the contribution verifies after a move.
 */
function copiedEvidence(invocation: Invocation, folder: string, checkpointManifestPath: string | undefined) {
  const { root, manifest, manifestBytes } = invocation;
  const recovery = root.has(recoveryPath) ? recoveryPath : autoResumePath;
  const live: Record<string, string | undefined> = {
    ...evidence,
    recovery_receipt: recovery,
    checkpoint_manifest: checkpointManifestPath,
  };
  const found = new Map<string, Uint8Array>([["invocation_manifest", manifestBytes]]);
  for (const [kind, path] of Object.entries(live)) {
    if (path !== undefined && root.has(path)) found.set(kind, root.bytes(path));
  }
  const executed = ownEvidence(invocation);
  if (executed) found.set("execution_evidence", root.bytes(evidencePath));
  const input = manifest.grouped_stage_input_transport?.materialized_path;
  if (input !== undefined && invocation.inputTransportChecked) {
    const { bytes } = openEnvelope(input);
    found.set("grouped_stage_input_transport", bytes.envelope);
    found.set("grouped_stage_input_payload", bytes.payload);
  }
  const copies = [...found.keys()].map((kind) => {
    const ending = kind === "launcher_log" ? "log" : "json";
    const copy = `${folder}/artifacts/${kind}.${ending}`;
    root.writeBytes(copy, found.get(kind)!);
    return { artifact_kind: kind, binding: root.bind(kind, copy) };
  });
  const large = executed ? evidenceFiles(root, executed) : [];
  const snapshots = [...large].map(([kind, path]) => {
    const copy = `${folder}/artifacts/${copyName(kind, path)}`;
    root.snapshot(path, copy);
    return { artifact_kind: kind, binding: root.bindFile(kind, copy) };
  });
  return [...copies, ...snapshots];
}

/** Evidence of what was trained last, where that is this assignment's work: evidence of another is none. */
function ownEvidence({ root, manifest }: Invocation): ExecutionEvidence | undefined {
  const found = root.read(executionEvidence, evidencePath);
  const { window_id, assignment_id } = manifest.coordination;
  return found?.window_id === window_id && found.assignment_id === assignment_id ? found : undefined;
}

/** Rolled up so far from the receipts that are there; nothing closes a window. */
function writeBundle({ root }: Invocation, work: WorkIdentity, executionPath: string): string {
  const folder = `${windowFolder(work.windowId)}/contributions`;
  const receipts = readdirSync(root.path(folder)).flatMap((id) => {
    const path = `${folder}/${id}/contribution_receipt.json`;
    const receipt = root.read({ ...contributionReceipt, digest: undefined }, path);
    return receipt ? [{ receipt, path }] : [];
  });
  const order = (r: (typeof receipts)[number]["receipt"]): string =>
    `${r.assignment_id}\u0000${r.contribution_id}`;
  receipts.sort((a, b) => (order(a.receipt) < order(b.receipt) ? -1 : 1));
  const contributions = receipts.map(({ receipt: r, path }) => ({
    assignment_id: r.assignment_id,
    contribution_id: r.contribution_id,
    node_pubkey: r.node_pubkey,
    work_class: r.work_class,
    grouped_stage_assignment: r.grouped_stage_assignment,
    outcome: r.outcome,
    artifact_manifest_digest: r.artifact_manifest_digest,
    contribution_digest: r.contribution_digest,
    contribution_receipt_path: path,
  }));
  const path = `${windowFolder(work.windowId)}/sealed_window_bundle.json`;
  const bundle = sealed(sealedWindowBundle, {
    ...{ lane_id: work.laneId, network_id: work.networkId, run_id: work.runId, window_id: work.windowId },
    window_execution_path: executionPath,
    ...{ contribution_count: contributions.length, artifact_manifest_count: contributions.length },
    contributions,
    contribution_rollup_digest: rollupDigest(contributions),
    detail: "Contributions to this window so far.",
  });
  root.write(path, bundle);
  return path;
}
