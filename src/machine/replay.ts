/** `validate_contribution`: the evidence is checked, the work is done again, and a verdict is left in the run root. */
import { readdirSync } from "node:fs";
import { basename } from "node:path";
import { refuse } from "./contract.ts";
import { sealed } from "./documents.ts";
import { type ExecutionEvidence, executionEvidence, reexecution } from "./evidence.ts";
import { validatorFolder } from "./layout.ts";
import { contributorRoot, replayed, resolveInput } from "./replay_inputs.ts";
import { type CheckpointSurface, checkpointSurface } from "./surface.ts";
import type { Invocation } from "./surfaces.ts";
import {
  qualityDriftSignal,
  rollbackSignal,
  type ScoreReceipt,
  scoreArtifact,
  scoreReceipt,
  trend,
} from "./validation.ts";
import {
  type ArtifactManifest,
  artifactManifest,
  type ContributionReceipt,
  contributionReceipt,
} from "./window.ts";

/** Does a lane's work again from its evidence; differences are named, none means that every bit agreed. */
export type Reexecution = {
  readonly steps: readonly number[];
  readonly differences: readonly {
    readonly what: string;
    readonly expected: string;
    readonly observed: string;
  }[];
  readonly durationMs: number;
};
export type Reexecute = (evidence: ExecutionEvidence, receipt: ContributionReceipt) => Reexecution;

type Target = {
  readonly receipt: ContributionReceipt;
  readonly listed: ArtifactManifest;
  readonly surface: CheckpointSurface | undefined;
  readonly evidence: ExecutionEvidence | undefined;
};

type Verdict = Pick<ScoreReceipt, "disposition" | "score_bps"> & {
  readonly reason_codes: ScoreReceipt["reason_codes"];
  readonly verified_hooks: ScoreReceipt["verified_hooks"];
  readonly again?: Reexecution;
};

export function validateContribution(invocation: Invocation, reexecute: Reexecute): string {
  const target = readTarget(invocation);
  checkAgreement(invocation, target);
  const verdict = judge(target, reexecute);
  const { disposition, score_bps } = verdict;
  writeVerdict(invocation, target, verdict);
  return `Contribution ${target.receipt.contribution_id} was ${disposition} with ${score_bps}`;
}

function readTarget({ manifest, root }: Invocation): Target {
  const receiptBinding = manifest.validator_target_contribution_receipt;
  const listBinding = manifest.validator_target_contribution_artifact_manifest;
  if (receiptBinding === null || listBinding === null)
    return refuse("bad_config", "the target bindings must be given");
  const receiptFile = resolveInput(receiptBinding, "contribution_receipt", [root.root]);
  const receipt = replayed(contributionReceipt, receiptFile);
  const listFile = resolveInput(listBinding, "contribution_artifact_manifest", [root.root]);
  const listed = replayed(artifactManifest, listFile);
  const roots = [root.root, contributorRoot(listFile.path)];
  const files = new Map(
    listed.artifacts.map(({ artifact_kind, binding }) => [
      artifact_kind,
      resolveInput(binding, artifact_kind, roots),
    ]),
  );
  const surface = files.get("checkpoint_surface");
  const evidence = files.get("execution_evidence");
  return {
    receipt,
    listed,
    surface: surface && replayed(checkpointSurface, surface),
    evidence: evidence && replayed(executionEvidence, evidence),
  };
}

/** Steps 4 to 10: everything names the same work, and that is the work of this assignment. */
function checkAgreement({ manifest, lane }: Invocation, { receipt, listed, surface }: Target): void {
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

/** Only hooks whose checks ran are listed. */
function judge({ receipt, surface, evidence }: Target, reexecute: Reexecute): Verdict {
  const consistent = ["assignment_correctness", "update_integrity"] as const;
  if (receipt.outcome === "refused" || !surface) {
    const reason_codes = ["contribution_outcome_refused" as const];
    return { disposition: "rejected", score_bps: 0, reason_codes, verified_hooks: [...consistent] };
  }
  const hooks = [...consistent, "checkpoint_lineage" as const];
  const failed = [surface.upload_outcome, surface.recovery_resolution_state].some(
    (state) => state === "refused" || state === "failed",
  );
  if (failed) {
    const reason_codes = ["checkpoint_replay_required" as const];
    return { disposition: "replay_required", score_bps: 5000, reason_codes, verified_hooks: hooks };
  }
  if (!evidence) return refuse("artifact_incomplete", "a succeeded contribution without execution_evidence");
  const again = withLineage(reexecute(evidence, receipt), surface, evidence);
  const done = { verified_hooks: [...hooks, "work_execution_plausibility" as const], again };
  if (again.differences.length > 0)
    return { disposition: "rejected", score_bps: 0, reason_codes: ["reexecution_mismatch"], ...done };
  const unclean = ![null, "none", "primary_pointer"].includes(surface.recovery_source_kind);
  const accepted = surface.pointer_state === "accepted" || surface.pointer_state === "accepted_primary";
  if (surface.restored_primary_pointer === true || unclean || !accepted)
    return { disposition: "quarantined", score_bps: 7500, reason_codes: ["checkpoint_recovered"], ...done };
  return {
    disposition: "accepted",
    score_bps: 10000,
    reason_codes: ["primary_checkpoint_accepted"],
    ...done,
  };
}

/** The checkpoint that the surface names must be the one that the work came to. */
function withLineage(
  again: Reexecution,
  surface: CheckpointSurface,
  evidence: ExecutionEvidence,
): Reexecution {
  const [named, made] = [surface.checkpoint_object_digest ?? "nothing", evidence.checkpoint_object_digest];
  if (named === made) return again;
  const difference = { what: "checkpoint_surface.checkpoint_object_digest", expected: named, observed: made };
  return { ...again, differences: [...again.differences, difference] };
}

/** Earlier verdicts on the same run and kind of work, this challenge's own left out. */
function priorReceipts({ root, manifest, lane }: Invocation, receipt: ContributionReceipt): ScoreReceipt[] {
  const { window_id, assignment_id, challenge_id } = manifest.coordination;
  const folders = root.has("windows") ? readdirSync(root.path("windows")) : [];
  const found = folders.flatMap((window) => {
    const folder = `windows/${window}/validators`;
    const challenges = root.has(folder) ? readdirSync(root.path(folder)) : [];
    return challenges.flatMap((challenge) => {
      const path = `${folder}/${challenge}/validator_score_receipt.json`;
      return root.has(path)
        ? [replayed(scoreReceipt, { path: root.path(path), bytes: root.bytes(path) })]
        : [];
    });
  });
  return found
    .filter(
      (r) =>
        r.lane_id === lane.id &&
        r.challenged_run_id === receipt.run_id &&
        r.challenged_work_class === receipt.work_class &&
        !(r.window_id === window_id && r.assignment_id === assignment_id && r.challenge_id === challenge_id),
    )
    .sort((a, b) => a.validation_index - b.validation_index);
}

function writeVerdict(invocation: Invocation, target: Target, verdict: Verdict): void {
  const { root, manifest, lane } = invocation;
  const { receipt, listed, surface } = target;
  const { window_id, assignment_id, challenge_id, network_id, node_pubkey } = manifest.coordination;
  const [window, assignment, challenge] = [window_id ?? "", assignment_id ?? "", challenge_id ?? ""];
  const priors = priorReceipts(invocation, receipt);
  const validation_index = (priors.at(-1)?.validation_index ?? 0) + 1;
  const folder = validatorFolder(window, challenge);
  const { again, ...judged } = verdict;
  const runs = {
    validator_run_id: manifest.run_id ?? basename(root.root),
    challenged_run_id: receipt.run_id,
  };
  const challenged = {
    ...{
      lane_id: lane.id,
      validator_work_class: manifest.work_class,
      challenged_work_class: receipt.work_class,
    },
    ...{ network_id, ...runs, window_id: window, assignment_id: assignment, challenge_id: challenge },
    ...{ validator_node_pubkey: node_pubkey ?? "", challenged_node_pubkey: receipt.node_pubkey },
    ...{ contribution_id: receipt.contribution_id, contribution_digest: receipt.contribution_digest },
    artifact_manifest_digest: listed.artifact_manifest_digest,
    ...{ grouped_stage_execution_summary_path: null, grouped_stage_execution_summary_digest: null },
    ...{ grouped_stage_replay_evidence_path: null, grouped_stage_replay_evidence_digest: null },
  };
  if (again) writeReexecution(invocation, target, folder, again);
  const detail = `${judged.disposition} with ${judged.score_bps}.`;
  const artifactPath = `${folder}/validator_score_artifact.json`;
  const artifact = sealed(scoreArtifact, {
    ...challenged,
    artifact_count: listed.artifact_count,
    checkpoint_pointer_state: surface?.pointer_state ?? null,
    checkpoint_manifest_digest: surface?.checkpoint_manifest_digest ?? null,
    checkpoint_object_digest: surface?.checkpoint_object_digest ?? null,
    ...{ validation_index, ...judged, detail },
  });
  root.write(artifactPath, artifact);
  const scored = sealed(scoreReceipt, {
    ...challenged,
    ...{ validation_index, ...judged, detail },
    ...{ score_artifact_path: artifactPath, score_artifact_digest: artifact.score_digest },
  });
  const scorePath = `${folder}/validator_score_receipt.json`;
  root.write(scorePath, scored);
  writeSignals(invocation, folder, scorePath, scored, priors);
}

function writeReexecution(
  { root, lane, manifest }: Invocation,
  target: Target,
  folder: string,
  again: Reexecution,
): void {
  root.write(
    `${folder}/reexecution.json`,
    sealed(reexecution, {
      ...{ lane_id: lane.id, contribution_id: target.receipt.contribution_id },
      challenge_id: manifest.coordination.challenge_id ?? "",
      ...{ total_steps: target.evidence?.steps.length ?? 0, reexecuted_steps: [...again.steps] },
      forged_step_caught_ppm: 1_000_000,
      differences: [...again.differences],
      backend: target.evidence?.backend ?? "",
      validator_ms: Math.round(again.durationMs),
    }),
  );
}

function writeSignals(
  { root }: Invocation,
  folder: string,
  scorePath: string,
  scored: ScoreReceipt,
  priors: readonly ScoreReceipt[],
): void {
  const t = trend(priors, scored);
  const signal = {
    ...{ lane_id: scored.lane_id, network_id: scored.network_id, validator_run_id: scored.validator_run_id },
    ...{ challenged_run_id: scored.challenged_run_id, challenged_work_class: scored.challenged_work_class },
    ...{ current_window_id: scored.window_id, current_assignment_id: scored.assignment_id },
    ...{ current_challenge_id: scored.challenge_id, validation_index: scored.validation_index },
    validator_score_receipt_path: scorePath,
    validator_score_receipt_digest: scored.score_receipt_digest,
  };
  const drift = sealed(qualityDriftSignal, {
    ...signal,
    previous_validation_index: t.previous?.validation_index ?? null,
    previous_window_id: t.previous?.window_id ?? null,
    previous_assignment_id: t.previous?.assignment_id ?? null,
    previous_challenge_id: t.previous?.challenge_id ?? null,
    previous_score_bps: t.previous?.score_bps ?? null,
    previous_disposition: t.previous?.disposition ?? null,
    ...{
      current_score_bps: scored.score_bps,
      current_disposition: scored.disposition,
      score_bps_delta: t.delta,
    },
    ...{ trailing_window_count: t.trailing, degraded_window_count: t.degraded },
    ...{ non_accepted_window_count: t.nonAccepted, drift_state: t.drift },
    detail: `Against the verdict before: ${t.drift}.`,
  });
  const driftPath = `${folder}/validator_quality_drift_signal.json`;
  root.write(driftPath, drift);
  root.write(
    `${folder}/validator_rollback_signal.json`,
    sealed(rollbackSignal, {
      ...signal,
      ...{ quality_drift_signal_path: driftPath, quality_drift_signal_digest: drift.drift_signal_digest },
      ...{ rollback_posture: t.posture, degraded_window_count: t.degraded },
      consecutive_non_accepted_window_count: t.consecutive,
      rollback_baseline_validation_index: t.baseline?.validation_index ?? null,
      rollback_baseline_window_id: t.baseline?.window_id ?? null,
      rollback_baseline_assignment_id: t.baseline?.assignment_id ?? null,
      rollback_baseline_challenge_id: t.baseline?.challenge_id ?? null,
      rollback_baseline_score_bps: t.baseline?.score_bps ?? null,
      rollback_baseline_disposition: t.baseline?.disposition ?? null,
      detail: `Posture ${t.posture}; nothing is rolled back by this.`,
    }),
  );
}
