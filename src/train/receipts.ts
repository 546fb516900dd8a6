/** Step receipts: a line for each step with its place in the budget, loss, and what each group's optimiser did. */
import { sha256 } from "../core/digest.ts";
import { datasetIdentityOf, type Run } from "./run_root.ts";
import type { StepRecord } from "./trainer.ts";

/** Where a step, counted from 1, stands in windows and cadences. */
export type Place = {
  readonly global_step: number;
  readonly window_index: number;
  readonly step_in_window: number;
  readonly cadence_index: number;
  readonly window_in_cadence: number;
};

export function placeOf(step: number, stepsPerWindow: number, windowsPerCadence: number): Place {
  const window = Math.floor((step - 1) / stepsPerWindow);
  return {
    global_step: step,
    window_index: window + 1,
    step_in_window: ((step - 1) % stepsPerWindow) + 1,
    cadence_index: Math.floor(window / windowsPerCadence) + 1,
    window_in_cadence: (window % windowsPerCadence) + 1,
  };
}

/** `finishedAtMs`: Unix milliseconds. */
export function stepReceipt(run: Run, record: StepRecord, finishedAtMs: number) {
  const { steps_per_window, windows_per_cadence, sequences, accumulation } = run.settings;
  const durationMs = Math.round(record.durationMs);
  const receipt = {
    receipt_id: `${run.runId}-step-${record.step}`,
    run_id: run.runId,
    checkpoint_family: `train.${run.lane.name}`,
    execution_mode: "explicit_gradient_batch",
    schedule: placeOf(record.step, steps_per_window, windows_per_cadence),
    batch_id: `${datasetIdentityOf(run)}#step-${record.step}`,
    loss: record.loss,
    sample_count: sequences * accumulation,
    group_telemetry: record.groups.map((g) => ({
      group_id: g.id,
      optimizer: g.optimizer,
      effective_learning_rate: g.learningRate,
      effective_weight_decay: g.weightDecay,
      gradient_norm_l2: g.gradientNorm,
      clipped_gradient_norm_l2: g.clippedGradientNorm,
      clipping_ratio: g.gradientNorm > 0 ? g.clippedGradientNorm / g.gradientNorm : 1,
      update_norm_l2: null,
      parameter_norm_l2: g.parameterNorm,
      residency_before: "device_resident",
      residency_after: "device_resident",
    })),
    timing: {
      started_at_ms: finishedAtMs - durationMs,
      finished_at_ms: finishedAtMs,
      duration_ms: durationMs,
    },
    receipt_digest: "",
  };
  return { ...receipt, receipt_digest: sha256(`psionic_train_step_receipt|${JSON.stringify(receipt)}`) };
}

export type StepReceipt = ReturnType<typeof stepReceipt>;
