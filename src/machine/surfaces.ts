/** The status surfaces of a run, in the order in which later files may cite earlier ones. */
import { basename } from "node:path";
import { isLaunch, type LaneContract } from "./contract.ts";
import { writeContribution } from "./contribution.ts";
import { sealed } from "./documents.ts";
import { record, str } from "./fields.ts";
import type { Attestation, Capability } from "./identity.ts";
import {
  autoResumePath,
  backupReceiptPath,
  closeoutPath,
  evidencePath,
  handoffPath,
  launcherLogPath,
  launchManifestPath,
  membershipPath,
  pointerPath,
  recoveryPath,
  replayProofName,
  retainedSummaryPath,
  runPacketPath,
  stageReplayName,
  statusPath,
  surfacePath,
  validatorFolder,
  windowPacketPath,
} from "./layout.ts";
import type { InvocationManifest } from "./manifest.ts";
import { membershipReceipt, nextMembership } from "./membership.ts";
import {
  type ArtifactPaths,
  artifactPathsOf,
  askedOf,
  type Outcome,
  runStatusPacket,
  windowStatusPacket,
} from "./packets.ts";
import type { RunRoot } from "./run_root.ts";
import { deriveSurface, laneStatusOf } from "./surface.ts";
import { workIdentity } from "./window.ts";

/** One invocation that reached its run root. */
export type Invocation = {
  readonly manifest: InvocationManifest;
  /** As the command line gave it, and the file's bytes. */
  readonly manifestPath: string;
  readonly manifestBytes: Uint8Array;
  readonly lane: LaneContract;
  readonly root: RunRoot;
  readonly attestation: Attestation;
  readonly capability: Capability;
  /** The input of a grouped stage was read and found whole. */
  readonly inputTransportChecked?: boolean;
  /** How much a validator does again; absent: what its lane and the length of the work call for. */
  readonly replaySteps?: number | "all";
  /** Milliseconds since 1970. */
  readonly now: number;
};

/**
 * The run as files name it: the lane's record, else the manifest's, else that of what was trained here, else the root's own
 * name. A launch begins the run that it names.
 */
export function resolvedRunId({ root, manifest }: Invocation): string {
  const begun = isLaunch(manifest.operation) ? manifest.run_id : null;
  const recorded = begun ?? laneStatusOf(root).run_id ?? manifest.run_id;
  if (recorded !== null) return recorded;
  const name = basename(root.root);
  const trained = root.read(trainedRun, evidencePath)?.run_id;
  return trained ?? (name === "" || name === "." ? "unknown_run" : name);
}

const trainedRun = { schema: record({ run_id: str }), digest: undefined };

export type WrittenSurfaces = {
  readonly runId: string;
  readonly runPacket: string;
  readonly windowPacket: string;
};

/** Writes all of them; throws where one cannot be made. */
export function writeSurfaces(invocation: Invocation, outcome: Outcome, detail: string): WrittenSurfaces {
  const { root, manifest, attestation, capability } = invocation;
  const runId = resolvedRunId(invocation);
  const membership = writeMembership(invocation, runId, outcome.outcome === "refused");
  const surface = deriveSurface(root, manifest);
  if (surface) root.write(surfacePath, surface);
  const work = workIdentity(
    manifest.lane_id,
    runId,
    manifest.coordination,
    manifest.grouped_stage_assignment,
  );
  const window =
    work && manifest.role !== "validator"
      ? writeContribution(
          invocation,
          work,
          outcome,
          detail,
          surface?.artifacts.checkpoint_manifest_path ?? undefined,
        )
      : undefined;
  const artifacts = artifactPathsOf({
    launch_manifest_path: isLaunch(manifest.operation) ? root.present(launchManifestPath) : null,
    membership_revision_path: membership ? root.path(membershipPath) : null,
    ...window,
    grouped_stage_input_transport_path: manifest.grouped_stage_input_transport?.materialized_path ?? null,
    checkpoint_surface_path: root.present(surfacePath),
    checkpoint_pointer_path: root.present(pointerPath),
    checkpoint_manifest_path: absolute(root, surface?.artifacts.checkpoint_manifest_path),
    checkpoint_backup_receipt_path: root.present(backupReceiptPath),
    checkpoint_handoff_receipt_path: root.present(handoffPath),
    recovery_receipt_path: root.present(recoveryPath) ?? root.present(autoResumePath),
    ...verdictPaths(invocation, outcome),
    final_closeout_bundle_path: root.present(closeoutPath),
  });
  const phase = laneStatusOf(root).phase ?? null;
  const { manifest_digest, ...asked } = askedOf(manifest, outcome);
  const evidence = { runtime_attestation: attestation, capability_projection: capability, artifacts };
  root.write(
    runPacketPath,
    sealed(runStatusPacket, {
      ...asked,
      ...{ manifest_path: invocation.manifestPath, manifest_digest },
      ...{ run_id: runId, run_root: root.root, phase },
      ...evidence,
      current_status_path: root.present(statusPath),
      retained_summary_path: root.present(retainedSummaryPath),
      launcher_log_path: root.present(launcherLogPath),
      detail,
    }),
  );
  const declared = manifest.coordination.window_id === null ? null : (phase ?? "window_context_declared");
  root.write(
    windowPacketPath,
    sealed(windowStatusPacket, {
      ...asked,
      ...{ manifest_digest, run_id: runId, run_root: root.root, window_state: declared },
      ...evidence,
      detail,
    }),
  );
  return { runId, runPacket: root.path(runPacketPath), windowPacket: root.path(windowPacketPath) };
}

/** What this validation left. */
function verdictPaths({ root, manifest }: Invocation, outcome: Outcome): Partial<ArtifactPaths> {
  const { window_id, challenge_id } = manifest.coordination;
  const done = manifest.operation === "validate_contribution" && outcome.outcome === "succeeded";
  if (!done || window_id === null || challenge_id === null) return {};
  const beside = (name: string) => root.present(`${validatorFolder(window_id, challenge_id)}/${name}`);
  const at = (name: string) => beside(`validator_${name}.json`);
  return {
    validator_score_receipt_path: at("score_receipt"),
    validator_quality_drift_signal_path: at("quality_drift_signal"),
    validator_rollback_signal_path: at("rollback_signal"),
    weak_device_validation_replay_proof_path: beside(replayProofName),
    grouped_stage_replay_evidence_path: beside(stageReplayName),
  };
}

const absolute = (root: RunRoot, relative: string | null | undefined): string | null =>
  relative === null || relative === undefined ? null : root.path(relative);

/** The next receipt, also into the history. A refusal that nothing came before leaves none. */
function writeMembership({ root, ...invocation }: Invocation, runId: string, refused: boolean): boolean {
  // an unreadable receipt makes writing fail; its digest is the supervisor's to check
  const previous = root.read({ ...membershipReceipt, digest: undefined }, membershipPath);
  const next = nextMembership(previous, { ...invocation, runId, refused });
  if (!next) return false;
  const revision = String(next.local_membership_revision).padStart(6, "0");
  root.write(`status/membership_revisions/revision-${revision}.json`, next);
  root.write(membershipPath, next);
  return true;
}
