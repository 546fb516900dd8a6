/** The files of a run root: where they lie, and the documents that are written again as the run goes on. */
import { appendFileSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { unexpected } from "../core/error.ts";
import { lockFolder } from "../core/folder_lock.ts";
import { fileError } from "../models/files/bytes.ts";
import { isObject, type Json, parseJson } from "../models/files/strict_json.ts";
import type { SavedCheckpoint } from "./checkpoint.ts";
import { writeJson } from "./durable.ts";
import type { GitState } from "./git_state.ts";
import type { Lane, RunSettings } from "./lanes/lane.ts";
import type { Observations } from "./observations.ts";
import type { TrainingBackend } from "./plan.ts";

/** Paths below the run root, in the order in which documents list them. */
export const retainedPaths = {
  launch_manifest_path: "manifests/launch_manifest.json",
  resume_manifest_path: "manifests/resume_manifest.json",
  current_status_path: "status/current_run_status.json",
  retained_summary_path: "status/retained_summary.json",
  latest_checkpoint_pointer_path: "checkpoints/latest_accepted_checkpoint_pointer.json",
  latest_checkpoint_backup_receipt_path: "checkpoints/latest_accepted_checkpoint_backup_receipt.json",
  auto_resume_receipt_path: "checkpoints/auto_resume_receipt.json",
  latest_checkpoint_eval_decision_path: "evals/latest_checkpoint_eval_decision.json",
  latest_checkpoint_eval_failure_path: "evals/latest_checkpoint_eval_failure.json",
  latest_checkpoint_comparison_path: "decisions/latest_checkpoint_comparison.json",
  latest_continue_restart_decision_path: "decisions/latest_continue_restart_decision.json",
  current_dashboard_path: "dashboard/current_dashboard.json",
  hardware_qualification_path: "preflight/hardware_qualification.json",
  run_shape_qualification_path: "preflight/run_shape_qualification.json",
  continuation_handoff_path: "continuation/accepted_checkpoint_handoff.json",
  closeout_bundle_path: "closeout/closeout_bundle.json",
  launcher_log_path: "logs/launcher.log",
  latest_redacted_alert_path: "alerts/latest_redacted_alert.json",
  active_alert_feed_path: "alerts/active_alerts.json",
} as const;

/** Files that only this implementation writes. */
export const ownPaths = {
  settings: "manifests/run_settings.json",
  products: "manifests/matrix_products.json",
  dataset: "manifests/dataset_manifest.json",
  steps: "metrics/steps.jsonl",
  receipts: "metrics/step_receipts.jsonl",
  checkpoints: "metrics/checkpoints.jsonl",
  heldOut: "metrics/held_out.jsonl",
  curves: "dashboard/training_curves.svg",
  picture: "dashboard/training_curves.png",
  recovery: "reference_pilot_recovery_drill.json",
  summary: "reference_pilot_operator_summary.json",
  operator_manifest: "reference_pilot_operator_manifest.json",
  lock: "run.lock",
} as const;

export type Phase =
  | "dry_run_planned"
  | "resume_dry_run_planned"
  | "launch_staged"
  | "resume_staged"
  | "training"
  | "training_complete"
  | "training_interrupted"
  | "training_stopped_not_finite"
  | "training_failed"
  | "checkpoint_evaluated"
  | "checkpoint_eval_retry_required"
  | "checkpoint_backed_up"
  | "checkpoint_backup_refused"
  | "continue_decision_recorded"
  | "hold_decision_recorded"
  | "restart_decision_recorded"
  | "base_lane_rehearsal_complete"
  | "resume_refused_auto_resume"
  | "launch_refused_preflight"
  | "resume_refused_preflight";

export type Run = {
  readonly root: string;
  readonly runId: string;
  readonly lane: Lane;
  /** Where it computes, from its first step to its last, since its bits are those of its backend. Absent: the CPU. */
  readonly backend?: TrainingBackend;
  readonly git: GitState;
  /** What an operator observed before this launch. */
  readonly observations?: Observations;
  readonly settings: RunSettings;
};

export const schemaId = (name: string): string => `psion.actual_pretraining_${name}.v1`;

/** SHA-256 of a prefix and the compact record with its own digest empty, which is put in its place. */
export function withDigest<T extends object>(record: string, field: keyof T & string, value: T): T {
  const empty = { ...value, [field]: "" };
  return { ...value, [field]: sha256(`psion_actual_pretraining_${record}|${JSON.stringify(empty)}`) };
}

/** The id of a command of a lane, as receipts name it. */
export const surfaceId = (lane: Lane, command: string): string =>
  `${lane.id.replace(/_v\d+$/, "")}.${command}`;

export const surfaces = (lane: Lane) => ({
  start_surface_id: surfaceId(lane, "start"),
  dry_run_surface_id: surfaceId(lane, "dry_run"),
  resume_surface_id: surfaceId(lane, "resume"),
  status_surface_id: surfaceId(lane, "status"),
});

export function write(run: Run, path: string, value: unknown): void {
  writeJson(join(run.root, path), value);
}

/** Appends one line of an event: `<utc> phase=... surface_id=... git_commit_sha=... key=value...`. */
export function log(
  run: Run,
  phase: Phase,
  surface: string,
  more: Readonly<Record<string, string | number>> = {},
): void {
  const path = join(run.root, retainedPaths.launcher_log_path);
  mkdirSync(join(run.root, "logs"), { recursive: true });
  const words = { phase, surface_id: surface, git_commit_sha: run.git.git_commit_sha, ...more };
  const line = Object.entries(words).map(([key, value]) => `${key}=${value}`);
  appendFileSync(path, `${new Date().toISOString()} ${line.join(" ")}\n`);
}

export type Progressed = { readonly label: string; readonly step: number };

/** The current status and the summary that outlives it. */
export function writeStatus(run: Run, phase: Phase, at: Progressed, detail: string): void {
  const head = { lane_id: run.lane.id, run_id: run.runId };
  write(run, retainedPaths.current_status_path, {
    schema_version: schemaId("current_run_status"),
    ...head,
    phase,
    current_status_path: retainedPaths.current_status_path,
    retained_summary_path: retainedPaths.retained_summary_path,
    latest_checkpoint_pointer_path: retainedPaths.latest_checkpoint_pointer_path,
    continuation_handoff_path: retainedPaths.continuation_handoff_path,
    latest_checkpoint_label: at.label,
    last_completed_step: at.step,
    launcher_surfaces: surfaces(run.lane),
    updated_at_utc: new Date().toISOString(),
    detail,
  });
  const { selected_git_ref, git_commit_sha, dirty_tree_admission } = run.git;
  write(run, retainedPaths.retained_summary_path, {
    schema_version: schemaId("retained_summary"),
    ...head,
    last_known_phase: phase,
    ...{ selected_git_ref, git_commit_sha, dirty_tree_admission },
    current_status_path: retainedPaths.current_status_path,
    latest_checkpoint_pointer_path: retainedPaths.latest_checkpoint_pointer_path,
    continuation_handoff_path: retainedPaths.continuation_handoff_path,
    launcher_surfaces: surfaces(run.lane),
    claim_boundary: run.lane.claimBoundary,
    detail,
  });
}

export const pendingLabel = "pending_first_checkpoint";

/** What the pointer says; `digest` is that of the checkpoint's manifest's object. */
export type Pointer =
  | { readonly state: "pending_first_checkpoint" }
  | {
      readonly state: "accepted";
      readonly label: string;
      readonly step: number;
      readonly ref: string;
      readonly manifest: string;
    };

export function writePendingPointer(run: Run): void {
  write(run, retainedPaths.latest_checkpoint_pointer_path, {
    schema_version: schemaId("checkpoint_pointer"),
    lane_id: run.lane.id,
    run_id: run.runId,
    pointer_state: "pending_first_checkpoint",
    checkpoint_label: pendingLabel,
    optimizer_step: 0,
    checkpoint_ref: null,
    checkpoint_manifest_relative_path: null,
    detail: "No checkpoint has been written yet.",
  });
}

/** The data set of a run: its own, or the lane's. */
export const datasetIdentityOf = ({ lane, settings }: Run): string =>
  settings.dataset_identity ?? lane.datasetIdentity;

export const labelOf = (run: Run, step: number): string => `${run.lane.runPrefix}-step-${step}`;

export const refOf = (run: Run, step: number): string =>
  `checkpoint://${run.lane.id}/${run.runId}/step-${step}`;

/** Writes a checkpoint's manifest beside its tensors, then the pointer to it. */
export function acceptCheckpoint(
  run: Run,
  saved: SavedCheckpoint,
  label = labelOf(run, saved.step),
  ref = refOf(run, saved.step),
): void {
  const folder = `checkpoints/step-${saved.step}`;
  const manifest = `${folder}/checkpoint_manifest.json`;
  const record = withDigest("checkpoint_manifest", "manifest_digest", {
    schema_version: schemaId("checkpoint_manifest"),
    lane_id: run.lane.id,
    recipe_id: run.lane.recipeId,
    run_id: run.runId,
    checkpoint_label: label,
    optimizer_step: saved.step,
    checkpoint_ref: ref,
    relative_manifest_path: manifest,
    relative_checkpoint_dir: folder,
    checkpoint_object_digest: saved.digest,
    checkpoint_total_bytes: saved.bytes,
    dataset_identity: datasetIdentityOf(run),
    ...run.git,
    detail: "The object digest is the SHA-256 of trainer_state.json, which lists those of the tensor files.",
    manifest_digest: "",
  });
  write(run, manifest, record);
  write(run, retainedPaths.latest_checkpoint_pointer_path, {
    schema_version: schemaId("checkpoint_pointer"),
    lane_id: run.lane.id,
    run_id: run.runId,
    pointer_state: "accepted",
    checkpoint_label: label,
    optimizer_step: saved.step,
    checkpoint_ref: ref,
    checkpoint_manifest_relative_path: manifest,
    detail: "Written after the checkpoint and its manifest were synced.",
  });
}

/** A JSON object of the run root; throws `file_not_found` or `file_malformed`. */
export function readDocument(root: string, path: string): { readonly [key: string]: Json } {
  const full = join(root, path);
  let text: string;
  try {
    text = readFileSync(full, "utf8");
  } catch (cause) {
    throw fileError(full, cause);
  }
  const value = parseJson(text, full);
  if (!isObject(value)) throw unexpected("file_malformed", full, "a JSON object", text.slice(0, 40));
  return value;
}

/** Takes the run root for this process; throws `locked` while another is at it. Claims of processes that died do not count. */
export const lockRun = (root: string): Disposable => lockFolder(join(root, ownPaths.lock), root);
