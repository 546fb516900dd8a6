import { isObject, type Json } from "../../models/files/strict_json.ts";
import { print, printJson } from "../../terminal/output.ts";
import { readDocument, retainedPaths } from "../run_root.ts";

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
  if (given.json === true) await printJson(shown);
  else
    await print(
      Object.entries(shown)
        .map(([key, v]) => `${key}=${v}`)
        .join("\n"),
    );
}

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
