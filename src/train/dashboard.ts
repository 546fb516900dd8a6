/** The dashboard document: figures of the run as it stands. */

import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { isObject } from "../models/files/strict_json.ts";
import { filesAreThere, stepFolder } from "./checkpoint.ts";
import { type Document, documentIf, measuredIn, memberOf, receiptsOf } from "./evidence.ts";
import {
  ownPaths,
  type Phase,
  pendingLabel,
  type Run,
  refOf,
  retainedPaths,
  schemaId,
  write,
} from "./run_root.ts";
import { slownesses, speedOf } from "./speed.ts";
import { ailments, isMeasured, type Telemetry } from "./telemetry.ts";
import type { TracedStep } from "./trainer.ts";

export type Figures = {
  readonly trace: readonly TracedStep[];
  /** Of the steps that this process ran; absent where it ran none: of all that are recorded. */
  readonly tokensPerSecond?: number;
  /** The accepted checkpoint; step 0 before there is one. */
  readonly checkpoint: { readonly label: string; readonly step: number };
  /** Of the last checkpoint that was written; undefined where none was. */
  readonly checkpointBytesPerSecond: number | undefined;
  /** Of the device, measured now; absent where no process trains. */
  readonly telemetry?: Telemetry;
};

/** Writes the dashboard from what the run root holds, for a run that no process trains. */
export function refreshDashboard(run: Run, phase: Phase): void {
  const pointer = documentIf(run.root, retainedPaths.latest_checkpoint_pointer_path);
  const { steps, checkpoints } = measuredIn(run.root);
  const written = checkpoints.at(-1);
  writeDashboard(run, phase, {
    trace: steps,
    checkpoint: {
      label: String(pointer?.checkpoint_label ?? pendingLabel),
      step: Number(pointer?.optimizer_step ?? 0),
    },
    checkpointBytesPerSecond: written && (1000 * written.bytes) / Math.max(written.durationMs, 1e-3),
  });
}

function meanSpeed(steps: readonly TracedStep[]): number {
  const total = (of: (s: TracedStep) => number): number => steps.reduce((sum, s) => sum + of(s), 0);
  return (
    (1000 * total((s) => s.tokens)) /
    Math.max(
      total((s) => s.durationMs),
      1e-3,
    )
  );
}

const milli = (n: number | undefined): number | null => (n === undefined ? null : Math.round(n * 1000));

export function writeDashboard(run: Run, phase: Phase, f: Figures): void {
  const last = f.trace.at(-1);
  const { label, step } = f.checkpoint;
  const receipts = receiptsOf(run, step);
  const written = f.checkpointBytesPerSecond === undefined ? null : Math.round(f.checkpointBytesPerSecond);
  const evalPath = receipts.evalFailure
    ? retainedPaths.latest_checkpoint_eval_failure_path
    : receipts.evalDecision && retainedPaths.latest_checkpoint_eval_decision_path;
  const { selected_git_ref, git_commit_sha, dirty_tree_admission } = run.git;
  const speed = speedOf(f.trace, run.settings.steps_per_window);
  const slow = slownesses(speed, run.lane.limits);
  const floor = (speed.all?.tokensPerSecond ?? 0) * (run.lane.limits.leastThroughputRatioBps / 10000);
  const ceiling = (speed.all?.stepMs ?? 0) * (run.lane.limits.mostStepLatencyRatioBps / 10000);
  const shape = documentIf(run.root, retainedPaths.run_shape_qualification_path);
  const hardware = hardwareCard(run, step, f.telemetry);
  const alerts = sorted([
    ...runAlerts(phase, last?.step ?? 0),
    ...receiptAlerts(receipts, step),
    ...machineAlerts(run, hardware.health_state, f.telemetry, slow, last?.step ?? 0),
  ]);
  const record = {
    schema_version: schemaId("dashboard"),
    dashboard_id: `${run.runId}-dashboard`,
    lane_id: run.lane.id,
    run_id: run.runId,
    current_phase: phase,
    ...{ selected_git_ref, git_commit_sha, dirty_tree_admission },
    dashboard_path: retainedPaths.current_dashboard_path,
    alert_feed_path: retainedPaths.active_alert_feed_path,
    throughput: {
      baseline_tokens_per_second: speed.telling ? Math.round(speed.all!.tokensPerSecond) : null,
      observed_tokens_per_second: last ? Math.round(f.tokensPerSecond ?? meanSpeed(f.trace)) : null,
      min_healthy_tokens_per_second: speed.telling ? Math.round(floor) : null,
      observed_step_latency_ms: last ? Math.round(last.durationMs) : null,
      max_healthy_step_latency_ms: speed.telling ? Math.ceil(ceiling) : null,
      observed_checkpoint_write_throughput_bytes_per_second: written,
      min_checkpoint_write_throughput_bytes_per_second: null,
      observed_batches_per_second: memberOf(shape, "dataloader_probe").observed_batches_per_second ?? null,
      observed_stall_count: speed.stalls ?? null,
      degradation_state: !speed.telling ? "not_measured" : slow.length > 0 ? "degraded" : "healthy",
      detail: speed.telling
        ? "Tokens over the time of the steps; limits are of the last window to all steps, by medians."
        : "Tokens over the time of the steps; too few were run to say whether they become slower.",
    },
    loss: {
      visibility_state: last ? "emitted" : "not_started",
      latest_mean_loss_milli: milli(last?.loss),
      source_relative_path: last ? ownPaths.steps : null,
      detail: "Mean over the tokens of the last step, in thousandths of a nat.",
    },
    gradient: {
      visibility_state: last ? "emitted" : "not_started",
      latest_global_norm_milli: milli(last?.gradientNorm),
      ...{
        collective_kind: "none",
        runtime_backend: run.backend ?? "cpu",
        transport: "none",
        collective_benchmark_digest: null,
      },
      detail: "Norm over all parameters before clipping.",
    },
    checkpoint: {
      checkpoint_label: label,
      optimizer_step: step,
      checkpoint_ref: step > 0 ? refOf(run, step) : null,
      checkpoint_pointer_path: retainedPaths.latest_checkpoint_pointer_path,
      checkpoint_backup_state: receipts.backup?.backup_state ?? "not_recorded_yet",
      checkpoint_eval_state:
        receipts.evalFailure?.resolution_state ?? receipts.evalDecision?.decision_state ?? "pending_eval",
      checkpoint_eval_receipt_path: evalPath ?? null,
      continuation_handoff_path: retainedPaths.continuation_handoff_path,
      detail: "The checkpoint that resume goes on from.",
    },
    hardware,
    alerts: {
      active_alert_count: alerts.length,
      highest_severity: alerts[0]?.severity ?? "none",
      alert_feed_path: retainedPaths.active_alert_feed_path,
      response_runbook_path: null,
      detail: "Alerts of this process.",
    },
    support_refs: [],
    claim_boundary: run.lane.claimBoundary,
    detail: "Made from the run's own trace.",
    dashboard_digest: "",
  };
  write(run, retainedPaths.current_dashboard_path, {
    ...record,
    dashboard_digest: digestOf(record),
  });
  writeAlerts(run, alerts);
}

/** What the preflight of the last start or resume measured; `step`: of the accepted checkpoint. */
function hardwareCard(run: Run, step: number, telemetry: Telemetry | undefined) {
  const preflight = documentIf(run.root, retainedPaths.hardware_qualification_path);
  const workers = preflight?.observed_workers;
  const seen = Array.isArray(workers) ? workers.filter(isObject) : [];
  const free = seen.map((w) => w.free_memory_bytes).filter((n) => typeof n === "number");
  return {
    required_backend: run.backend ?? "cpu",
    required_worker_count: 1,
    observed_worker_count: preflight ? seen.length : null,
    required_min_free_memory_bytes_per_worker: preflight?.required_min_free_memory_bytes_per_worker ?? null,
    min_observed_free_memory_bytes: free.length > 0 ? Math.min(...free) : null,
    max_observed_temperature_celsius: telemetry?.temperatureCelsius ?? null,
    max_observed_ecc_uncorrected_error_count: telemetry?.eccUncorrectedErrors ?? null,
    any_throttling_observed: telemetry?.throttling ?? null,
    checkpoint_restore_ready: step > 0 && filesAreThere(join(run.root, "checkpoints", stepFolder(step))),
    health_state: healthOf(preflight, telemetry),
    detail:
      "Memory before the run; temperature, ECC and throttling now, null where they were not measured. Ready to restore: the files of the accepted checkpoint are there, in the sizes that its state lists.",
  };
}

function healthOf(preflight: Document | undefined, telemetry: Telemetry | undefined) {
  if (preflight?.admission_state === "refused") return "refused";
  if (telemetry && ailments(telemetry).length > 0) return "degraded";
  return telemetry && isMeasured(telemetry) ? "healthy" : "not_measured";
}

/** What is wrong with a run now, worst first. */
export type Alert = {
  readonly alert_id: string;
  readonly alert_kind: string;
  readonly severity: "critical" | "warning";
  readonly state: "active";
  readonly response_posture: string;
  readonly source_relative_path: string;
  readonly retained_redaction: "declared_source_names_only";
  readonly summary: string;
  readonly detail: string;
};

function alert(
  kind: string,
  step: number,
  severity: Alert["severity"],
  posture: string,
  source: string,
  [summary, detail]: readonly [summary: string, detail: string],
): Alert {
  return {
    alert_id: `psion_actual_pretraining_dashboard::${kind}::${step}`,
    alert_kind: kind,
    severity,
    state: "active",
    response_posture: posture,
    source_relative_path: source,
    retained_redaction: "declared_source_names_only",
    summary,
    detail,
  };
}

function runAlerts(phase: Phase, step: number): Alert[] {
  if (phase !== "training_stopped_not_finite" && phase !== "training_failed") return [];
  const notFinite = phase === "training_stopped_not_finite";
  const kind = notFinite ? "loss_not_finite" : "training_failed";
  const posture = "inspect_current_status_before_resume";
  return [
    alert(kind, step, "critical", posture, retainedPaths.current_status_path, [
      notFinite ? "A loss or gradient is no number." : "The run ended with an error.",
      "The last checkpoint is intact; the status says what happened.",
    ]),
  ];
}

/** The worse first, then by kind. */
const sorted = (alerts: readonly Alert[]): Alert[] =>
  [...alerts].sort((a, b) =>
    a.severity !== b.severity
      ? a.severity === "critical"
        ? -1
        : 1
      : a.alert_kind < b.alert_kind
        ? -1
        : Number(a.alert_kind > b.alert_kind),
  );

/** Of the machine: not admitted, unwell, or slower than it was. */
function machineAlerts(
  run: Run,
  health: string,
  telemetry: Telemetry | undefined,
  slow: readonly string[],
  step: number,
): Alert[] {
  const inspect = "inspect_hardware_qualification_before_launch";
  const qualification = retainedPaths.hardware_qualification_path;
  const reasons = documentIf(run.root, qualification)?.refusal_reasons;
  const alerts: Alert[] = [];
  if (health === "refused")
    alerts.push({
      ...alert("hardware_health_refused", step, "critical", inspect, qualification, [
        "This machine was not admitted.",
        Array.isArray(reasons) ? reasons.join("; ") : "",
      ]),
      alert_id: `psion_actual_pretraining_dashboard::hardware_health::${step}`,
    });
  if (health === "degraded")
    alerts.push(
      alert("hardware_worker_unhealthy", step, "warning", inspect, retainedPaths.current_dashboard_path, [
        "The device that trains is not well.",
        ailments(telemetry!).join(" "),
      ]),
    );
  if (slow.length > 0)
    alerts.push(
      alert(
        "throughput_degraded",
        step,
        "warning",
        "inspect_run_shape_qualification_before_continue",
        ownPaths.steps,
        ["The run has become slower than its lane allows.", slow.join(" ")],
      ),
    );
  return alerts;
}

/** Of the accepted checkpoint. */
function receiptAlerts({ backup, evalFailure }: ReturnType<typeof receiptsOf>, step: number): Alert[] {
  const alerts: Alert[] = [];
  if (backup?.backup_state === "refused") {
    const posture = "replay_backup_after_storage_credential_and_remote_root_review";
    const source = retainedPaths.latest_checkpoint_backup_receipt_path;
    const text = ["The accepted checkpoint has no backup.", String(backup.upload_failure_reason)] as const;
    alerts.push(alert("checkpoint_backup_refused", step, "critical", posture, source, text));
  }
  if (evalFailure) {
    const posture = "retry_checkpoint_eval_after_restoring_the_eval_worker";
    const source = retainedPaths.latest_checkpoint_eval_failure_path;
    const text = ["The accepted checkpoint was not evaluated.", String(evalFailure.detail)] as const;
    alerts.push(alert("checkpoint_eval_retry_required", step, "warning", posture, source, text));
  }
  return alerts;
}

function writeAlerts(run: Run, active_alerts: readonly Alert[]): void {
  const record = {
    schema_version: schemaId("alert_feed"),
    lane_id: run.lane.id,
    run_id: run.runId,
    alert_feed_path: retainedPaths.active_alert_feed_path,
    active_alerts,
    summary: active_alerts.length === 0 ? "No alert is active." : `${active_alerts.length} active.`,
    alert_feed_digest: "",
  };
  write(run, retainedPaths.active_alert_feed_path, { ...record, alert_feed_digest: digestOf(record) });
}

const digestOf = (record: object): string =>
  sha256(`psion_actual_pretraining_dashboard|${JSON.stringify(record)}`);
