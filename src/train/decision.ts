/** Whether a run goes on from its accepted checkpoint: a table of what was wanted and measured, and the decision. */
import { unexpected } from "../core/error.ts";
import { stepFolder } from "./checkpoint.ts";
import { writeCloseout } from "./closeout.ts";
import { writeCurves } from "./curves.ts";
import { refreshDashboard } from "./dashboard.ts";
import {
  type Document,
  documentIf,
  measuredIn,
  median,
  memberOf,
  receiptsOf,
  referenceTo,
} from "./evidence.ts";
import type { CheckpointLimits } from "./lanes/lane.ts";
import { lookAtPointer } from "./resume.ts";
import {
  lockRun,
  log,
  type Phase,
  type Run,
  retainedPaths,
  schemaId,
  surfaceId,
  withDigest,
  write,
  writeStatus,
} from "./run_root.ts";
import { ratioBps, speedOf } from "./speed.ts";

/** Ratios and rates in bps; undefined: not measured, which fails. */
export type Observed = {
  readonly evalState: string | undefined;
  readonly evalPassRateBps: number | undefined;
  readonly evalScoreBps: number | undefined;
  readonly backupState: string | undefined;
  readonly hardware: string | undefined;
  readonly runShape: string | undefined;
  readonly throughputRatioBps: number | undefined;
  readonly stepLatencyRatioBps: number | undefined;
  readonly checkpointWriteRatioBps: number | undefined;
  readonly loaderStalls: number | undefined;
};

export type Row = {
  readonly row_id: string;
  readonly signal_kind: string;
  readonly comparison_kind: "exact_match" | "min_floor" | "max_ceiling";
  readonly expected_value: string;
  readonly observed_value: string;
  readonly status: "green" | "red";
  readonly detail: string;
};

type Value = string | number | undefined;

export function comparisonRows(seen: Observed, limits: CheckpointLimits): Row[] {
  const row = (id: string, kind: Row["comparison_kind"], wanted: string | number, got: Value): Row => {
    const fits = { exact_match: got === wanted, min_floor: got! >= wanted, max_ceiling: got! <= wanted };
    return {
      row_id: id,
      signal_kind: id,
      comparison_kind: kind,
      expected_value: String(wanted),
      observed_value: got === undefined ? "not_measured" : String(got),
      status: got !== undefined && fits[kind] ? "green" : "red",
      detail: details[id] ?? "From the receipt of the accepted checkpoint.",
    };
  };
  const receipt = seen.evalState === undefined ? "missing" : "present";
  return [
    row("checkpoint_eval_receipt", "exact_match", "present", receipt),
    row("checkpoint_eval_decision_state", "exact_match", "continue", seen.evalState),
    row("checkpoint_eval_pass_rate_bps", "min_floor", 10000, seen.evalPassRateBps),
    row("checkpoint_eval_score_bps", "min_floor", limits.reviewScoreBps, seen.evalScoreBps),
    row("checkpoint_backup_state", "exact_match", "backed_up", seen.backupState),
    row("hardware_admission_state", "exact_match", "admitted", seen.hardware),
    row("run_shape_admission_state", "exact_match", "admitted", seen.runShape),
    row("throughput_anchor_ratio_bps", "min_floor", limits.leastThroughputRatioBps, seen.throughputRatioBps),
    row(
      "step_latency_anchor_ratio_bps",
      "max_ceiling",
      limits.mostStepLatencyRatioBps,
      seen.stepLatencyRatioBps,
    ),
    row(
      "checkpoint_write_ratio_bps",
      "min_floor",
      limits.leastCheckpointWriteRatioBps,
      seen.checkpointWriteRatioBps,
    ),
    row("dataloader_stall_count", "max_ceiling", limits.mostLoaderStalls, seen.loaderStalls),
  ];
}

const details: Readonly<Record<string, string>> = {
  throughput_anchor_ratio_bps: "Tokens per second: median of the last window over that of the whole run.",
  step_latency_anchor_ratio_bps: "Time of a step: median of the last window over that of the whole run.",
  checkpoint_write_ratio_bps: "Bytes per second of the last checkpoint over the median of all.",
  hardware_admission_state: "From the preflight of the run's last start or resume.",
  run_shape_admission_state: "From the preflight of the run's last start or resume.",
  dataloader_stall_count:
    "Of the run's own steps where they read a data set, else of the loader's probe before the run.",
};

export type Readiness = "ready_to_continue" | "ready_to_restart" | "hold";

/** All rows green: continue; an eval that says restart: restart; anything else waits for a person. */
export function readinessOf(rows: readonly Row[], evalState: string | undefined): Readiness {
  if (rows.every((r) => r.status === "green")) return "ready_to_continue";
  return evalState === "restart_from_last_accepted_checkpoint" ? "ready_to_restart" : "hold";
}

const outcomes = {
  ready_to_continue: {
    state: "continue",
    action: "continue_long_run",
    phase: "continue_decision_recorded",
    reason: "Every row of the comparison is green.",
  },
  ready_to_restart: {
    state: "restart_from_last_accepted_checkpoint",
    action: "restart_from_latest_accepted_checkpoint",
    phase: "restart_decision_recorded",
    reason: "The checkpoint's eval asks for a restart.",
  },
  hold: {
    state: "hold_and_investigate",
    action: "pause_and_review",
    phase: "hold_decision_recorded",
    reason: "Rows of the comparison are red.",
  },
} as const satisfies Record<Readiness, { state: string; action: string; phase: Phase; reason: string }>;

export type Decided = {
  readonly phase: Phase;
  readonly step: number;
  readonly label: string;
  readonly state: string;
  readonly action: string;
  readonly rows: readonly Row[];
  readonly blocking: readonly string[];
};

/** Compares, decides, and writes both documents; throws where there is no accepted checkpoint that is whole. */
export function decideContinueRestart(run: Run): Decided {
  using _lock = lockRun(run.root);
  const where = "train decide-continue-restart";
  const looked = lookAtPointer(run);
  if (looked.state !== "accepted")
    throw unexpected("digest_mismatch", where, "a whole checkpoint", looked.reason);
  if (!looked.accepted) throw unexpected("invalid_request", where, "a run with a checkpoint", "one without");
  const { step, label, ref } = looked.accepted;
  const seen = observedOf(run, step);
  const rows = comparisonRows(seen, run.lane.limits);
  const readiness = readinessOf(rows, seen.evalState);
  const { state, action, phase, reason } = outcomes[readiness];
  const blocking = rows.filter((r) => r.status === "red").map((r) => r.row_id);
  const head = {
    trigger_surface_id: surfaceId(run.lane, "decide_continue_restart"),
    ...run.git,
    checkpoint_label: label,
    optimizer_step: step,
    checkpoint_ref: ref,
  };
  writeBoth(run, "checkpoint_comparison", "comparison_digest", step, {
    ...head,
    checkpoint_pointer: referenceTo(run.root, retainedPaths.latest_checkpoint_pointer_path),
    checkpoint_manifest: referenceTo(run.root, `checkpoints/${stepFolder(step)}/checkpoint_manifest.json`),
    ...receiptRefs(run, step),
    comparison_rows: rows,
    checkpoint_readiness_state: readiness,
    claim_boundary: run.lane.claimBoundary,
    detail: "Limits are those of the lane; values are from the run's own files.",
  });
  writeBoth(run, "continue_restart_decision", "decision_digest", step, {
    ...head,
    checkpoint_comparison: referenceTo(run.root, retainedPaths.latest_checkpoint_comparison_path),
    ...receiptRefs(run, step),
    decision_state: state,
    operator_action: action,
    blocking_row_ids: blocking,
    decision_reason: reason,
    claim_boundary: run.lane.claimBoundary,
    detail: blocking.length === 0 ? "Nothing blocks." : `Blocking: ${blocking.join(", ")}.`,
  });
  writeStatus(run, phase, { label, step }, reason);
  refreshDashboard(run, phase);
  writeCurves(run);
  writeCloseout(run, phase);
  const logged = { checkpoint_label: label, decision_state: state, operator_action: action };
  log(run, phase, head.trigger_surface_id, logged);
  return { phase, step, label, state, action, rows, blocking };
}

function receiptRefs(run: Run, step: number) {
  const { backup, evalDecision, evalFailure } = receiptsOf(run, step);
  const when = (there: Document | undefined, path: string) => (there ? referenceTo(run.root, path) : null);
  return {
    checkpoint_backup_receipt: when(backup, retainedPaths.latest_checkpoint_backup_receipt_path),
    checkpoint_eval_decision: when(evalDecision, retainedPaths.latest_checkpoint_eval_decision_path),
    checkpoint_eval_failure: when(evalFailure, retainedPaths.latest_checkpoint_eval_failure_path),
    hardware_qualification: referenceTo(run.root, retainedPaths.hardware_qualification_path),
    run_shape_qualification: referenceTo(run.root, retainedPaths.run_shape_qualification_path),
    systems_bundle: null,
  };
}

/** The record of this step and, the same bytes, the latest one. */
function writeBoth(
  run: Run,
  name: "checkpoint_comparison" | "continue_restart_decision",
  digestField: "comparison_digest" | "decision_digest",
  step: number,
  fields: object,
): void {
  const identity = { schema_version: schemaId(name), lane_id: run.lane.id, run_id: run.runId };
  const record: Record<string, unknown> = { ...identity, ...fields, [digestField]: "" };
  const digested = withDigest(name, digestField, record);
  write(run, `decisions/${name}_step-${step}.json`, digested);
  write(run, `decisions/latest_${name}.json`, digested);
}

function observedOf(run: Run, step: number): Observed {
  const { backup, evalDecision } = receiptsOf(run, step);
  const text = (d: Document | undefined, key: string): string | undefined =>
    typeof d?.[key] === "string" ? (d[key] as string) : undefined;
  const number = (d: Document | undefined, key: string): number | undefined =>
    typeof d?.[key] === "number" ? (d[key] as number) : undefined;
  const shape = documentIf(run.root, retainedPaths.run_shape_qualification_path);
  return {
    evalState: text(evalDecision, "decision_state"),
    evalPassRateBps: number(evalDecision, "aggregate_pass_rate_bps"),
    evalScoreBps: number(evalDecision, "aggregate_score_bps"),
    backupState: text(backup, "backup_state"),
    hardware: text(documentIf(run.root, retainedPaths.hardware_qualification_path), "admission_state"),
    runShape: text(shape, "admission_state"),
    ...speedRatios(run, step),
    loaderStalls:
      speedOf(measuredIn(run.root, step).steps, 1).stalls ??
      number(memberOf(shape, "dataloader_probe"), "observed_stall_count"),
  };
}

function speedRatios(run: Run, step: number) {
  const { steps, checkpoints } = measuredIn(run.root, step);
  const { all, recent } = speedOf(steps, run.settings.steps_per_window);
  const writes = checkpoints.map((c) => c.bytes / Math.max(c.durationMs, 1e-3));
  return {
    throughputRatioBps: ratioBps(recent?.tokensPerSecond, all?.tokensPerSecond),
    stepLatencyRatioBps: ratioBps(recent?.stepMs, all?.stepMs),
    checkpointWriteRatioBps: ratioBps(writes.at(-1), median(writes)),
  };
}
