import type { Windows } from "../../data/batches.ts";
import type { TrainedModel } from "../model.ts";
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
  readonly max_steps: number;
  /** A checkpoint is written at the end of each window and of the run. */
  readonly steps_per_window: number;
  readonly windows_per_cadence: number;
};

/** A run's parts, made from its settings alone. */
export type RunParts = {
  readonly model: TrainedModel;
  readonly train: Windows;
  readonly validation: Windows;
  readonly datasetDigest: string;
  readonly config: TrainerConfig;
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
  parts(settings: RunSettings): RunParts;
};
