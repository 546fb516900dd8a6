/**
 * The proof that a weak device's stage was accepted: everything that two run status packets name is read again and held
 * against each other. A library call; no command writes it.
 */
import { dirname, join, relative } from "node:path";
import { sha256 } from "../core/digest.ts";
import { unexpected } from "../core/error.ts";
import { orderedJson } from "../core/json.ts";
import { writeWhole } from "../train/durable.ts";
import { appleLane, hooks } from "./contract.ts";
import { type AnyDocument, type Content, sealed, verified } from "./documents.ts";
import { type ArtifactPaths, runStatusPacket } from "./packets.ts";
import { acceptedOutcomeProof } from "./proofs.ts";
import { fileBytes, jsonOf, RunRoot } from "./run_root.ts";
import { stageExecutionSummary, stageReplayEvidence } from "./stage_documents.ts";
import { type CheckpointSurface, checkpointSurface, deriveSurface, genericCheckpoint } from "./surface.ts";
import { qualityDriftSignal, rollbackSignal, scoreArtifact, scoreReceipt } from "./validation.ts";
import { artifactManifest, contributionReceipt, sealedWindowBundle, windowExecution } from "./window.ts";

type Packet = Content<typeof runStatusPacket>;
export type AcceptedOutcomeProof = Content<typeof acceptedOutcomeProof>;

/** Throws where the proof would not be true, naming what is in the way. */
function demand(holds: boolean, expected: string, got = "something else"): void {
  if (!holds) throw unexpected("digest_mismatch", "accepted outcome proof", expected, got);
}

function read<D extends AnyDocument>(doc: D, path: string | null, what: string): Content<D> {
  if (path === null)
    throw unexpected("file_not_found", "accepted outcome proof", `${what} in the packet`, "null");
  return verified(doc, jsonOf(fileBytes(path), path), path) as Content<D>;
}

/** Reads a stored proof again and recomputes its digest. */
export const readOutcomeProof = (path: string): AcceptedOutcomeProof =>
  read(acceptedOutcomeProof, path, "the proof");

/** Writes the proof; `contributor` and `validator` are paths of their run status packets. */
export function writeOutcomeProof(
  path: string,
  contributor: string,
  validator: string,
): AcceptedOutcomeProof {
  const worker = read(runStatusPacket, contributor, "the contributor's packet");
  const judge = read(runStatusPacket, validator, "the validator's packet");
  checkPackets(worker, judge);
  const work = workOf(worker.artifacts);
  const verdict = verdictOf(judge);
  checkWork(worker, work);
  checkVerdict(judge, work, verdict);
  const checkpoint = checkpointOf(worker, work, verdict);
  const proof = sealed(acceptedOutcomeProof, content(worker, work, verdict, checkpoint));
  writeWhole(path, [new TextEncoder().encode(orderedJson(proof, 2))]);
  return proof;
}

function checkPackets(worker: Packet, judge: Packet): void {
  const grouped = "grouped_replica_stage_execution";
  for (const packet of [worker, judge]) demand(packet.outcome === "succeeded", "packets of what succeeded");
  demand(worker.work_class === grouped, `work of class ${grouped}`, worker.work_class);
  demand(judge.work_class === "validation_replay", "a validator's packet", judge.work_class);
  demand(judge.validator_target_work_class === grouped, `a verdict on ${grouped}`);
  demand(worker.lane_id === judge.lane_id, "packets of one lane");
  const { topology_class } = worker.capability_projection;
  demand(topology_class === appleLane.topology, `topology ${appleLane.topology}`, topology_class);
}

function workOf(paths: ArtifactPaths) {
  return {
    execution: read(windowExecution, paths.window_execution_path, "window_execution_path"),
    receipt: read(contributionReceipt, paths.contribution_receipt_path, "contribution_receipt_path"),
    listed: read(
      ...([artifactManifest, paths.contribution_artifact_manifest_path] as const),
      "contribution_artifact_manifest_path",
    ),
    summary: read(
      ...([stageExecutionSummary, paths.grouped_stage_execution_summary_path] as const),
      "grouped_stage_execution_summary_path",
    ),
    bundle: read(sealedWindowBundle, paths.sealed_window_bundle_path, "sealed_window_bundle_path"),
  };
}

function verdictOf({ artifacts: paths, run_root }: Packet) {
  const receipt = read(scoreReceipt, paths.validator_score_receipt_path, "validator_score_receipt_path");
  return {
    receipt,
    // paths in a verdict are below the validator's run root
    score: read(scoreArtifact, join(run_root ?? "", receipt.score_artifact_path), "score_artifact_path"),
    drift: read(
      ...([qualityDriftSignal, paths.validator_quality_drift_signal_path] as const),
      "validator_quality_drift_signal_path",
    ),
    rollback: read(
      ...([rollbackSignal, paths.validator_rollback_signal_path] as const),
      "validator_rollback_signal_path",
    ),
    evidence: read(
      ...([stageReplayEvidence, paths.grouped_stage_replay_evidence_path] as const),
      "grouped_stage_replay_evidence_path",
    ),
  };
}

type Work = ReturnType<typeof workOf>;
type Verdict = ReturnType<typeof verdictOf>;

/** Everything of the contributor's is of one contribution, and the bundle has it. */
function checkWork(worker: Packet, { execution, receipt, listed, summary, bundle }: Work): void {
  for (const field of ["lane_id", "run_id", "window_id"] as const)
    for (const part of [execution, listed, summary, bundle])
      demand(part[field] === receipt[field], `one ${field} in all documents`, part[field]);
  for (const field of ["assignment_id", "contribution_id", "node_pubkey"] as const)
    for (const part of [execution.current_assignment, listed, summary])
      demand(part[field] === receipt[field], `one ${field} in all documents`, part[field]);
  for (const network of [execution.network_id, summary.network_id, bundle.network_id])
    demand(network === worker.coordination.network_id, "one network in all documents");
  demand(execution.window_execution_id === receipt.window_execution_id, "one window execution");
  demand(receipt.artifact_manifest_digest === listed.artifact_manifest_digest, "the receipt's own list");
  const stage = orderedJson(receipt.grouped_stage_assignment);
  for (const part of [execution, listed, summary])
    demand(orderedJson(part.grouped_stage_assignment) === stage, "one stage in all documents");
  const entry = bundle.contributions.find((c) => c.contribution_id === receipt.contribution_id);
  const same =
    entry?.contribution_digest === receipt.contribution_digest &&
    entry.artifact_manifest_digest === receipt.artifact_manifest_digest &&
    orderedJson(entry.grouped_stage_assignment) === stage;
  demand(same, "a window bundle that has the contribution");
}

function checkVerdict(judge: Packet, { receipt, summary }: Work, verdict: Verdict): void {
  const { receipt: scored, score, drift, rollback, evidence } = verdict;
  for (const part of [scored, score, evidence]) {
    demand(part.challenge_id === judge.coordination.challenge_id, "one challenge in all documents");
    demand(part.contribution_digest === receipt.contribution_digest, "a verdict on this contribution");
    demand(part.artifact_manifest_digest === receipt.artifact_manifest_digest, "a verdict on this list");
    demand(part.network_id === judge.coordination.network_id, "one network in all documents");
    const accepted = part.disposition === "accepted" && part.score_bps === 10000;
    demand(accepted, "accepted with 10000", `${part.disposition} with ${part.score_bps}`);
  }
  demand(scored.score_artifact_digest === score.score_digest, "the receipt of this score");
  demand(evidence.execution_summary_digest === summary.execution_summary_digest, "evidence of this summary");
  for (const signal of [drift, rollback])
    demand(
      signal.validator_score_receipt_digest === scored.score_receipt_digest,
      "signals of this score receipt",
    );
  demand(
    rollback.quality_drift_signal_digest === drift.drift_signal_digest,
    "a rollback signal of this drift",
  );
  demand(drift.drift_state !== "regressed", "quality that did not regress", drift.drift_state);
  demand(rollback.rollback_posture === "hold", "posture hold", rollback.rollback_posture);
  const missing = hooks.filter((hook) => !scored.verified_hooks.includes(hook));
  demand(missing.length === 0, "all five hooks", `none of ${missing.join(", ")}`);
}

/** The surface, derived anew, must be what was judged. */
function checkpointOf(worker: Packet, { listed }: Work, { score }: Verdict) {
  using root = RunRoot.open(worker.run_root ?? "");
  const surface: CheckpointSurface | undefined = deriveSurface(root, worker);
  const { pointer, manifest } = genericCheckpoint(root);
  if (!surface) throw unexpected("file_not_found", root.root, "a checkpoint surface", "none");
  demand(surface.upload_outcome !== "refused", "an upload that was not refused");
  for (const field of ["checkpoint_manifest_digest", "checkpoint_object_digest"] as const)
    demand(surface[field] === score[field], `${field} as it was judged`, String(surface[field]));
  demand(surface.pointer_state === score.checkpoint_pointer_state, "the pointer as it was judged");
  const stored = read(checkpointSurface, worker.artifacts.checkpoint_surface_path, "checkpoint_surface_path");
  demand(stored.checkpoint_object_digest === surface.checkpoint_object_digest, "the surface as it is stored");
  const digestOf = (path: string | null, kind: string): string => {
    const digest = sha256(fileBytes(path ?? ""));
    const bound = listed.artifacts.find((a) => a.artifact_kind === kind)?.binding.artifact_ref
      .artifact_digest;
    demand(bound === digest, `${kind} as the contribution lists it`, String(bound));
    return digest;
  };
  const { checkpoint_surface_path, checkpoint_pointer_path } = worker.artifacts;
  return {
    ...{ pointer, manifest },
    surfaceDigest: digestOf(checkpoint_surface_path, "checkpoint_surface"),
    pointerDigest: digestOf(checkpoint_pointer_path, "checkpoint_pointer"),
  };
}

type Contents = Omit<AcceptedOutcomeProof, "schema_version" | "bundle_digest">;

function content(worker: Packet, work: Work, verdict: Verdict, found: Found): Contents {
  const { execution, receipt, bundle } = work;
  const { receipt: scored, drift } = verdict;
  const { backend_family, topology_class } = worker.capability_projection;
  const { grouped_stage_assignment: stage, lane_id } = receipt;
  if (stage === null) throw unexpected("digest_mismatch", "accepted outcome proof", "a stage", "none");
  const { window_id, assignment_id, contribution_id, contribution_digest } = receipt;
  const { artifact_manifest_digest } = receipt;
  const { network_id } = execution;
  return {
    proof_id: `weak-device:${lane_id}:${window_id}:${contribution_id}`,
    ...{ lane_id, network_id },
    carrier: {
      ...{ contributor_run_id: receipt.run_id, contributor_node_pubkey: receipt.node_pubkey },
      ...{ backend_family, topology_class, work_class: receipt.work_class, grouped_stage_assignment: stage },
      // what stands in for the device is none
      weak_device_bearing: backend_family === appleLane.backend,
      detail: `Stage ${stage.stage_index + 1} of ${stage.stage_count}.`,
    },
    window: {
      ...{ network_id, window_id, assignment_id, window_execution_id: execution.window_execution_id },
      ...{ window_digest: execution.window_digest, sealed_window_digest: bundle.sealed_window_digest },
      ...{ contribution_id, contribution_digest, artifact_manifest_digest },
      detail: "The window as it was rolled up.",
    },
    validator: {
      ...{ validator_run_id: scored.validator_run_id, challenge_id: scored.challenge_id },
      validation_index: scored.validation_index,
      ...{ validator_disposition: "accepted", validator_score_bps: scored.score_bps },
      ...{ verified_hooks: scored.verified_hooks, quality_drift_state: drift.drift_state },
      ...{ rollback_posture: "hold", detail: scored.detail },
    },
    checkpoint: {
      checkpoint_label: found.pointer.checkpoint_label,
      checkpoint_ref: found.pointer.checkpoint_ref,
      checkpoint_pointer_state: found.pointer.pointer_state,
      optimizer_step: found.pointer.optimizer_step,
      checkpoint_manifest_digest: found.manifest.manifest_digest,
      checkpoint_object_digest: found.manifest.checkpoint_object_digest,
      detail: "The accepted checkpoint of the stage.",
    },
    cited_artifacts: citations(worker, work, verdict, found),
    claim_boundary: "One stage's contribution, its replay and its checkpoint; no payout, no finality.",
    detail: "Restates receipts that were read and held against each other.",
  };
}

type Found = ReturnType<typeof checkpointOf>;

/** Paths are below the run root of whoever wrote the file. */
function citations({ run_root, artifacts: paths }: Packet, work: Work, verdict: Verdict, found: Found) {
  const below = (path: string | null): string => relative(run_root ?? "", path ?? "");
  const { receipt: scored, score, drift, rollback, evidence } = verdict;
  const cited: readonly (readonly [role: string, path: string, digest: string])[] = [
    ["window_execution", below(paths.window_execution_path), work.execution.window_digest],
    ["contribution_receipt", below(paths.contribution_receipt_path), work.receipt.contribution_digest],
    [
      "contribution_artifact_manifest",
      ...([below(paths.contribution_artifact_manifest_path), work.listed.artifact_manifest_digest] as const),
    ],
    [
      "grouped_stage_execution_summary",
      ...([
        below(paths.grouped_stage_execution_summary_path),
        work.summary.execution_summary_digest,
      ] as const),
    ],
    [
      "grouped_stage_replay_evidence",
      ...([scored.grouped_stage_replay_evidence_path ?? "", evidence.replay_evidence_digest] as const),
    ],
    ["checkpoint_surface", below(paths.checkpoint_surface_path), found.surfaceDigest],
    ["checkpoint_pointer", below(paths.checkpoint_pointer_path), found.pointerDigest],
    ["checkpoint_manifest", below(paths.checkpoint_manifest_path), found.manifest.manifest_digest],
    ["sealed_window_bundle", below(paths.sealed_window_bundle_path), work.bundle.sealed_window_digest],
    ["validator_score_artifact", scored.score_artifact_path, score.score_digest],
    ["validator_score_receipt", drift.validator_score_receipt_path, scored.score_receipt_digest],
    ["validator_quality_drift_signal", rollback.quality_drift_signal_path, drift.drift_signal_digest],
    [
      "validator_rollback_signal",
      ...([
        `${dirname(rollback.quality_drift_signal_path)}/validator_rollback_signal.json`,
        rollback.rollback_signal_digest,
      ] as const),
    ],
  ];
  return cited.map(([artifact_role, artifact_path, artifact_digest]) => ({
    ...{ artifact_role, artifact_path, artifact_digest },
    detail: "Below the run root of whoever wrote it.",
  }));
}
