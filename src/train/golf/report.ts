/** The report of a run: what was asked for, every step's figures, scores, and the artifact's bytes; all of it measured. */
import { sha256 } from "../../core/digest.ts";
import type { GitState } from "../git_state.ts";
import { momentumAt } from "../optimizer/config.ts";
import type { StepRecord } from "../trainer.ts";
import type { GolfData } from "./data.ts";
import { golfGroups } from "./recipe.ts";
import type { Score } from "./score.ts";
import type { GolfSettings } from "./settings.ts";

/** A line of metrics/steps.jsonl and of the report's `step_metrics`. */
export type StepMetrics = {
  readonly global_step: number;
  /** Microbatches of the training stream, counted from 0. */
  readonly train_window_ids: readonly string[];
  readonly mean_microbatch_loss: number;
  readonly learning_rate_multiplier: number;
  readonly muon_momentum: number;
  readonly observed_wallclock_ms: number;
  readonly phase_timings: { readonly data_wait_ms: number; readonly train_ms: number };
  readonly effective_learning_rate: Readonly<Record<string, number>>;
  readonly gradient_norm_after_clip: number;
  readonly parameter_norm_after_step: number;
  readonly clip_applied: boolean;
  readonly non_finite_gradient_count: number;
  readonly tokens: number;
  readonly tokens_per_second: number;
  readonly samples_per_second_milli: number;
};

const normOf = (parts: readonly number[]): number => Math.hypot(...parts);

export function stepMetrics(s: GolfSettings, record: StepRecord, dataWaitMs: number): StepMetrics {
  const { step, loss, tokens, durationMs, learningRate, groups } = record;
  const { optimizer } = golfGroups(s.momentum_warmup_steps).find(({ id }) => id === "matrices")!;
  const first = (step - 1) * s.accumulation;
  const seconds = Math.max(durationMs, 1e-3) / 1000;
  return {
    global_step: step,
    train_window_ids: Array.from({ length: s.accumulation }, (_, i) => `train:${first + i}`),
    mean_microbatch_loss: loss,
    learning_rate_multiplier: learningRate,
    muon_momentum: optimizer.kind === "muon" ? momentumAt(optimizer, step) : 0,
    observed_wallclock_ms: durationMs,
    phase_timings: { data_wait_ms: dataWaitMs, train_ms: durationMs - dataWaitMs },
    effective_learning_rate: Object.fromEntries(groups.map((g) => [g.id, g.learningRate])),
    gradient_norm_after_clip: normOf(groups.map((g) => g.clippedGradientNorm)),
    parameter_norm_after_step: normOf(groups.map((g) => g.parameterNorm)),
    clip_applied: false,
    // a step with such a gradient ends the run
    non_finite_gradient_count: 0,
    tokens,
    tokens_per_second: tokens / seconds,
    samples_per_second_milli: Math.round((1000 * (tokens / s.length)) / seconds),
  };
}

/** A line of metrics/validation.jsonl and of the report's `validation_checkpoints`. */
export type ValidationCheckpoint = {
  readonly stage_label: string;
  readonly trigger_step: number;
  readonly observed_training_time_ms: number;
  readonly observed_validation_ms: number;
  readonly summary: Score;
};

export type RoundTrip = {
  readonly final_model_surface: "raw";
  readonly artifact_config: { readonly quantization: string; readonly compression: string };
  readonly metric_source: "roundtrip_int8" | "not_scored";
  readonly validation: Score | null;
  readonly observed_eval_ms: number | null;
  readonly container_bytes: number;
  readonly compressed_model_bytes: number;
  readonly compressed_model_artifact_ref: string;
  readonly compressed_model_artifact_digest: string;
  /** The same container by each way of compression. */
  readonly compressed_bytes_by_compression: Readonly<Record<string, number>>;
};

export type MachineObservation = {
  readonly backend: string;
  readonly device: string;
  readonly total_memory_bytes: number | null;
  /** State and one step, as planned; the step ran within it. */
  readonly planned_memory_bytes: number;
  readonly measured_peak_tflops: number | null;
  readonly profile: GolfSettings["machine_profile"];
};

export type GolfReport = {
  readonly schema_version: 2;
  readonly run_id: string;
  readonly config: GolfSettings & { readonly parameter_count: number; readonly tokens_per_step: number };
  readonly dataset: {
    readonly identity: string;
    readonly manifest_digest: string;
    readonly train_token_count: number;
    readonly validation_token_count: number;
  };
  readonly tokenizer: {
    readonly family: "sentence_piece";
    readonly digest: string;
    readonly vocab_size: number;
  };
  readonly source: { readonly git_ref: string; readonly git_commit_sha: string };
  readonly machine: MachineObservation;
  readonly disposition: "training_executed" | "refused_machine_contract";
  readonly refusal_reason: string | null;
  readonly stop_reason: "step_budget_reached" | "wallclock_cap_reached" | null;
  readonly executed_steps: number;
  readonly observed_training_time_ms: number;
  /** Of the steps from the tenth on, where there are that many. */
  readonly median_step_ms: number | null;
  readonly tokens_per_second: number | null;
  readonly model_flops_utilization: number | null;
  readonly step_metrics: readonly StepMetrics[];
  readonly validation_checkpoints: readonly ValidationCheckpoint[];
  readonly final_validation: Score | null;
  readonly roundtrip_receipt: RoundTrip | null;
  readonly report_digest: string;
};

/** SHA-256 of a prefix and the compact report with its own digest empty. */
export function sealedReport(report: GolfReport): GolfReport {
  const empty = { ...report, report_digest: "" };
  return { ...report, report_digest: sha256(`psionic_parameter_golf_report|${JSON.stringify(empty)}`) };
}

const warmSteps = 10;

export function medianStepMs(steps: readonly StepMetrics[]): number | null {
  const kept = steps.length > warmSteps ? steps.slice(warmSteps) : steps;
  const sorted = kept.map((s) => s.observed_wallclock_ms).sort((a, b) => a - b);
  return sorted.length === 0 ? null : sorted[Math.floor(sorted.length / 2)]!;
}

/** A report of a run that its machine profile does not let begin. */
export function refusedReport(head: ReportHead, reason: string): GolfReport {
  return sealedReport({
    ...head,
    ...{ disposition: "refused_machine_contract", refusal_reason: reason, stop_reason: null },
    ...{ executed_steps: 0, observed_training_time_ms: 0, median_step_ms: null, tokens_per_second: null },
    ...{ model_flops_utilization: null, step_metrics: [], validation_checkpoints: [] },
    ...{ final_validation: null, roundtrip_receipt: null, report_digest: "" },
  });
}

export type ReportHead = Pick<
  GolfReport,
  "schema_version" | "run_id" | "config" | "dataset" | "tokenizer" | "source" | "machine"
>;

/** What stands in a report whatever came of the run. */
export function reportHead(
  run: { readonly runId: string; readonly settings: GolfSettings; readonly git: GitState },
  data: GolfData,
  parameters: number,
  machine: MachineObservation,
): ReportHead {
  const { settings, git } = run;
  return {
    schema_version: 2,
    run_id: run.runId,
    config: {
      ...settings,
      parameter_count: parameters,
      tokens_per_step: settings.sequences * settings.accumulation * settings.length,
    },
    dataset: {
      identity: data.identity,
      manifest_digest: data.dataset.manifest_digest,
      train_token_count: data.trainTokens,
      validation_token_count: data.validation.length,
    },
    tokenizer: { family: "sentence_piece", digest: data.tokenizerDigest, vocab_size: data.vocabularySize },
    source: { git_ref: git.selected_git_ref, git_commit_sha: git.git_commit_sha },
    machine,
  };
}
