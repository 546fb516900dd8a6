import { existsSync } from "node:fs";
import { join } from "node:path";
import { isObject, type Json } from "../../models/files/strict_json.ts";
import { print, printJson } from "../../terminal/output.ts";
import type { Decided } from "../decision.ts";
import { documentIf } from "../evidence.ts";
import type { Recorded } from "../record_checkpoint.ts";
import type { Rehearsed } from "../rehearsal.ts";
import type { RunOutcome } from "../run.ts";
import { ownPaths, type Run, readDocument, retainedPaths, surfaceId } from "../run_root.ts";

/** Options as they were read. */
export type Given = Readonly<Record<string, string | boolean | undefined>>;

/** How the run stands; only reads. */
export async function status(given: Given, root: string): Promise<void> {
  const current = readDocument(root, retainedPaths.current_status_path);
  const summary = readDocument(root, retainedPaths.retained_summary_path);
  const surface = (current.launcher_surfaces as { readonly status_surface_id?: Json } | undefined)
    ?.status_surface_id;
  const shown: Record<string, Json> = {
    run_id: current.run_id ?? null,
    phase: current.phase ?? null,
    last_completed_step: current.last_completed_step ?? null,
    latest_checkpoint_label: current.latest_checkpoint_label ?? null,
    selected_git_ref: summary.selected_git_ref ?? null,
    git_commit_sha: summary.git_commit_sha ?? null,
    dirty_tree_admission: summary.dirty_tree_admission ?? null,
    status_surface_id: surface ?? null,
  };
  await printLines(given, { ...shown, ...judgements(root) });
}

/** What the latest eval, alert and decision say, as far as there are any. */
function judgements(root: string): Record<string, Json> {
  const from = (path: string, fields: Readonly<Record<string, string>>): Record<string, Json> => {
    const found = documentIf(root, path);
    if (!found) return {};
    return Object.fromEntries(Object.entries(fields).map(([key, field]) => [key, found[field] ?? null]));
  };
  const decision = documentIf(root, retainedPaths.latest_continue_restart_decision_path);
  const blocking = decision?.blocking_row_ids;
  return {
    ...from(retainedPaths.latest_checkpoint_eval_decision_path, {
      checkpoint_eval_decision_state: "decision_state",
      checkpoint_eval_score_bps: "aggregate_score_bps",
    }),
    ...from(retainedPaths.latest_checkpoint_eval_failure_path, {
      checkpoint_eval_failure_kind: "failure_kind",
      checkpoint_eval_resolution_state: "resolution_state",
    }),
    ...from(retainedPaths.latest_redacted_alert_path, {
      latest_alert_kind: "alert_kind",
      latest_alert_severity: "severity",
    }),
    ...from(retainedPaths.latest_continue_restart_decision_path, {
      continue_restart_decision_state: "decision_state",
      continue_restart_operator_action: "operator_action",
    }),
    ...(Array.isArray(blocking) && { continue_restart_blocking_row_count: blocking.length }),
  };
}

/** `key=value` lines, or with --json one document. */
export async function printLines(given: Given, shown: Readonly<Record<string, Json>>): Promise<void> {
  if (given.json === true) return printJson(shown);
  const lines = Object.entries(shown).map(([key, v]) => `${key}=${v}`);
  await print(lines.join("\n"));
}

export function recordedLines(run: Run, r: Recorded): Record<string, Json> {
  const path = r.judged
    ? retainedPaths.latest_checkpoint_eval_decision_path
    : retainedPaths.latest_checkpoint_eval_failure_path;
  return {
    status: r.phase,
    surface_id: surfaceId(run.lane, "record_checkpoint"),
    run_id: run.runId,
    run_root: run.root,
    checkpoint_pointer: retainedPaths.latest_checkpoint_pointer_path,
    checkpoint_label: r.label,
    optimizer_step: r.step,
    checkpoint_ref: r.ref,
    checkpoint_object_digest: r.digest,
    checkpoint_total_bytes: r.bytes,
    checkpoint_eval_receipt: path,
    checkpoint_eval_decision_state: r.judged?.state ?? "retry_required",
    ...(r.judged && { checkpoint_eval_score_bps: r.judged.scoreBps }),
    ...Object.fromEntries(
      (r.judged?.gates ?? []).map((g) => [`held_out_loss.${g.id}`, Number(g.loss.toFixed(4))]),
    ),
    continuation_handoff: retainedPaths.continuation_handoff_path,
    closeout_bundle: retainedPaths.closeout_bundle_path,
  };
}

export const decidedLines = (run: Run, d: Decided): Record<string, Json> => ({
  status: d.phase,
  surface_id: surfaceId(run.lane, "decide_continue_restart"),
  run_id: run.runId,
  run_root: run.root,
  checkpoint_label: d.label,
  optimizer_step: d.step,
  decision_state: d.state,
  operator_action: d.action,
  blocking_row_count: d.blocking.length,
  blocking_row_ids: d.blocking.join(",") || "none",
  checkpoint_comparison: retainedPaths.latest_checkpoint_comparison_path,
  continue_restart_decision: retainedPaths.latest_continue_restart_decision_path,
  closeout_bundle: retainedPaths.closeout_bundle_path,
});

/** The figures of the dashboard and one line for each alert; only reads. */
export async function dashboard(given: Given, root: string): Promise<void> {
  const board = readDocument(root, retainedPaths.current_dashboard_path);
  const feed = readDocument(root, retainedPaths.active_alert_feed_path);
  const card = (name: string): { readonly [key: string]: Json } => {
    const found = board[name];
    return isObject(found ?? null) ? (found as { readonly [key: string]: Json }) : {};
  };
  const shown: Record<string, Json> = {
    run_id: board.run_id ?? null,
    phase: board.current_phase ?? null,
    selected_git_ref: board.selected_git_ref ?? null,
    git_commit_sha: board.git_commit_sha ?? null,
    throughput_state: card("throughput").degradation_state ?? null,
    observed_tokens_per_second: card("throughput").observed_tokens_per_second ?? null,
    baseline_tokens_per_second: card("throughput").baseline_tokens_per_second ?? null,
    loss_visibility_state: card("loss").visibility_state ?? null,
    latest_mean_loss_milli: card("loss").latest_mean_loss_milli ?? null,
    gradient_visibility_state: card("gradient").visibility_state ?? null,
    checkpoint_label: card("checkpoint").checkpoint_label ?? null,
    checkpoint_backup_state: card("checkpoint").checkpoint_backup_state ?? null,
    checkpoint_eval_state: card("checkpoint").checkpoint_eval_state ?? null,
    hardware_health_state: card("hardware").health_state ?? null,
    training_curves: existsSync(join(root, ownPaths.curves)) ? ownPaths.curves : null,
    training_curves_png: existsSync(join(root, ownPaths.picture)) ? ownPaths.picture : null,
    active_alert_count: card("alerts").active_alert_count ?? null,
    highest_alert_severity: card("alerts").highest_severity ?? null,
  };
  const alerts = Array.isArray(feed.active_alerts) ? feed.active_alerts.filter(isObject) : [];
  if (given.json === true) {
    await printJson({ ...shown, alerts });
    return;
  }
  const lines = Object.entries(shown).map(([key, v]) => `${key}=${v}`);
  const alertLines = alerts.map(
    (a, i) => `alert[${i}]=${a.alert_kind}:${a.severity}:${a.source_relative_path}`,
  );
  await print([...lines, ...alertLines].join("\n"));
}

export const rehearsedLines = (run: Run, r: Rehearsed): Record<string, Json> => ({
  ...{ status: "base_lane_rehearsal_complete", surface_id: surfaceId(run.lane, "rehearse_base_lane") },
  run_id: run.runId,
  run_root: run.root,
  interrupted_at_step: r.interruptedAt,
  resumed_from_step: r.resumedFrom,
  last_completed_step: r.decided.step,
  bit_equal_to_uninterrupted_run: true,
  checkpoint_label: r.decided.label,
  checkpoint_object_digest: r.digest,
  checkpoint_eval_decision_state: r.recorded.judged?.state ?? "retry_required",
  checkpoint_eval_score_bps: r.recorded.judged?.scoreBps ?? null,
  decision_state: r.decided.state,
  operator_action: r.decided.action,
  tokens_per_second: r.outcome.tokensPerSecond === null ? null : Math.round(r.outcome.tokensPerSecond),
  recovery_drill: ownPaths.recovery,
  closeout_bundle: retainedPaths.closeout_bundle_path,
});

/** How a run ended or was planned. */
export async function report(
  given: Given,
  run: Run,
  surface: string,
  manifest: string,
  o: RunOutcome,
): Promise<void> {
  const loss = (n: number | null): string => (n === null ? "not_measured" : n.toFixed(4));
  const lines: Record<string, string | number> = {
    status: o.phase,
    surface_id: surface,
    run_id: run.runId,
    run_root: run.root,
    [manifest.includes("resume") ? "resume_manifest" : "launch_manifest"]: manifest,
    current_status: retainedPaths.current_status_path,
    retained_summary: retainedPaths.retained_summary_path,
    checkpoint_pointer: retainedPaths.latest_checkpoint_pointer_path,
    hardware_qualification: retainedPaths.hardware_qualification_path,
    hardware_admission_state: o.hardware,
    run_shape_qualification: retainedPaths.run_shape_qualification_path,
    run_shape_admission_state: o.runShape,
    dashboard: retainedPaths.current_dashboard_path,
    launcher_log: retainedPaths.launcher_log_path,
    last_completed_step: o.completedSteps,
    checkpoint_label: o.checkpointLabel,
    checkpoint_object_digest: o.checkpointDigest ?? "none",
    initial_loss: loss(o.initialLoss),
    final_loss: loss(o.finalLoss),
    initial_held_out_loss: loss(o.initialValidationLoss),
    final_held_out_loss: loss(o.finalValidationLoss),
    tokens_per_second: o.tokensPerSecond === null ? "not_measured" : Math.round(o.tokensPerSecond),
    mfu_percent: o.mfu === null ? "not_measured" : (100 * o.mfu).toFixed(1),
  };
  const whole = { run_id: run.runId, run_root: run.root, surface_id: surface, ...o };
  if (given.json === true) await printJson(whole);
  else await printLines(given, lines);
}
