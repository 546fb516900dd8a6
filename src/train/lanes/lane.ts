import type { Windows } from "../../data/batches.ts";
import type { LoaderContract } from "../../data/loader/contract.ts";
import type { OpenDataset } from "../../data/shards/dataset.ts";
import type { Json } from "../../models/files/strict_json.ts";
import type { TrainedModel } from "../model.ts";
import type { Schedule } from "../schedule.ts";
import type { TrainerConfig } from "../trainer.ts";

/** What a run was asked to do; kept in its run root, so that it goes on with the same. */
export type RunSettings = {
  readonly lane: string;
  readonly model: string;
  readonly seed: number;
  /** Sequences of a microbatch, microbatches of a step, tokens of a sequence. */
  readonly sequences: number;
  readonly accumulation: number;
  readonly length: number;
  readonly learning_rate: number;
  readonly optimizer: "adam_w" | "muon";
  readonly precision: "f32" | "bf16";
  readonly recompute: boolean;
  /** The last so many steps, or the time they take, bring the learning rate down to 0; 0: it stays. */
  readonly warm_down_steps: number;
  /** What all steps together may take; 0: as long as they need. */
  readonly time_budget_seconds: number;
  /** Steps over which Muon's momentum rises; 0: it is the same from the first step on. */
  readonly momentum_warmup_steps: number;
  readonly max_steps: number;
  /** A checkpoint is written at the end of each window and of the run. */
  readonly steps_per_window: number;
  readonly windows_per_cadence: number;
  /** Lanes that read a data set: its folder, and what it was when the run began. */
  readonly dataset?: string;
  readonly dataset_identity?: string;
  readonly dataset_digest?: string;
  /** Of each held-out split, at most so many sequences are evaluated. */
  readonly held_out_windows?: number;
  /** Steps over which the learning rate rises, before a cosine brings it down to a tenth at `max_steps`; 0: neither. */
  readonly warmup_steps?: number;
};

/** The rate stays, rises and falls by a cosine, or comes down at the end of the steps or of the time. */
export function scheduleOf(s: RunSettings): Schedule {
  const { warm_down_steps, time_budget_seconds: seconds, max_steps: total_steps } = s;
  if (seconds > 0) return { kind: "warm_down_by_time", budget_ms: 1000 * seconds, warm_down_steps };
  const warmup_steps = s.warmup_steps ?? 0;
  if (warmup_steps > 0)
    return { kind: "warmup_cosine", warmup_steps, total_steps, min_learning_rate: s.learning_rate / 10 };
  return warm_down_steps > 0 ? { kind: "warm_down", total_steps, warm_down_steps } : { kind: "constant" };
}

/** Held-out text of one source. */
export type HeldOut = { readonly id: string; readonly windows: Windows };

/** A run's parts, made from its settings alone. */
export type RunParts = {
  readonly model: TrainedModel;
  readonly train: Windows;
  readonly validation: Windows;
  /**
   * Where microbatches are read from as the run goes on; `train` are then windows of its beginning, for the plan and the
   * probes. Absent: `train` is all there is.
   */
  readonly feed?: { readonly dataset: OpenDataset; readonly contract: LoaderContract };
  /** What checkpoints are evaluated on, source by source. */
  readonly heldOut: readonly HeldOut[];
  readonly datasetDigest: string;
  readonly config: TrainerConfig;
};

/** What a checkpoint must reach for a run to go on; bps are hundredths of a percent. */
export type CheckpointLimits = {
  /** Least share of the nats of a uniform guess that the model saves on each held-out source. */
  readonly heldOutShareBps: number;
  /** A mean share from here on is looked at by a person; below, the run is begun again from a checkpoint. */
  readonly reviewScoreBps: number;
  /** Of the last window to the whole run, medians over steps. */
  readonly leastThroughputRatioBps: number;
  readonly mostStepLatencyRatioBps: number;
  /** Of the last checkpoint to the median of all. */
  readonly leastCheckpointWriteRatioBps: number;
  readonly mostLoaderStalls: number;
};

export type Lane = {
  /** As `--lane` names it. */
  readonly name: string;
  readonly id: string;
  readonly recipeId: string;
  readonly datasetIdentity: string;
  /** Prefix of run ids and name of the folder below ~/scratch. */
  readonly runPrefix: string;
  readonly runFolder: string;
  readonly models: readonly string[];
  readonly defaults: RunSettings;
  readonly claimBoundary: string;
  readonly limits: CheckpointLimits;
  /** Settings that are found when a run begins and stay with it. */
  begun?(settings: RunSettings, given: Readonly<Record<string, Json>>): RunSettings;
  parts(settings: RunSettings): RunParts;
};
