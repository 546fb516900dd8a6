/** The dashboard document: figures of the run as it stands. */

import { sha256 } from "../core/digest.ts";
import type { SavedCheckpoint } from "./checkpoint.ts";
import { ownPaths, type Phase, type Run, retainedPaths, schemaId, write } from "./run_root.ts";
import type { TracedStep } from "./trainer.ts";

export type Figures = {
  readonly trace: readonly TracedStep[];
  readonly tokensPerSecond: number;
  readonly saved: SavedCheckpoint | undefined;
  readonly checkpointMs: number | undefined;
  readonly label: string;
};

const milli = (n: number | undefined): number | null => (n === undefined ? null : Math.round(n * 1000));

export function writeDashboard(run: Run, phase: Phase, f: Figures): void {
  const last = f.trace.at(-1);
  const written = f.saved && f.checkpointMs ? Math.round((f.saved.bytes / f.checkpointMs) * 1000) : null;
  const { selected_git_ref, git_commit_sha, dirty_tree_admission } = run.git;
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
      baseline_tokens_per_second: null,
      observed_tokens_per_second: last ? Math.round(f.tokensPerSecond) : null,
      min_healthy_tokens_per_second: null,
      observed_step_latency_ms: last ? Math.round(last.durationMs) : null,
      max_healthy_step_latency_ms: null,
      observed_checkpoint_write_throughput_bytes_per_second: written,
      min_checkpoint_write_throughput_bytes_per_second: null,
      observed_batches_per_second: null,
      observed_stall_count: 0,
      degradation_state: last ? "healthy" : "not_measured",
      detail: "Tokens over the time of the steps, measured; the profile has no limits.",
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
        runtime_backend: "cpu",
        transport: "none",
        collective_benchmark_digest: null,
      },
      detail: "Norm over all parameters before clipping.",
    },
    checkpoint: {
      checkpoint_label: f.label,
      optimizer_step: f.saved?.step ?? 0,
      checkpoint_ref: f.saved ? `checkpoint://${run.lane.id}/${run.runId}/step-${f.saved.step}` : null,
      checkpoint_pointer_path: retainedPaths.latest_checkpoint_pointer_path,
      checkpoint_backup_state: "not_recorded_yet",
      checkpoint_eval_state: "pending_eval",
      checkpoint_eval_receipt_path: null,
      continuation_handoff_path: retainedPaths.continuation_handoff_path,
      detail: "The checkpoint that resume goes on from.",
    },
    claim_boundary: run.lane.claimBoundary,
    detail: "Made from the run's own trace.",
    dashboard_digest: "",
  };
  const digest = sha256(`psion_actual_pretraining_dashboard|${JSON.stringify(record)}`);
  write(run, retainedPaths.current_dashboard_path, { ...record, dashboard_digest: digest });
}
