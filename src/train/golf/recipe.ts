/** The baseline of the challenge: model, optimisers and schedule of its settings. */
import { type Windows, windowsOf } from "../../data/batches.ts";
import type { TrainedModel } from "../model.ts";
import { golf, golfBaseline } from "../models/golf.ts";
import { type OptimizerConfig, type ParameterGroup, startingMomentum } from "../optimizer/config.ts";
import type { Schedule } from "../schedule.ts";
import type { TrainerConfig } from "../trainer.ts";
import type { GolfSettings } from "./settings.ts";

/** Learning rates of the groups, which the schedule's multiplier scales. */
export const golfRates = { token_embedding: 0.05, matrices: 0.04, scalars: 0.04 } as const;

/** The tied embedding and all vectors by Adam, the blocks' matrices by Muon. */
export function golfGroups(
  momentumWarmupSteps: number,
  muonPrecision: "f32" | "bf16" = "bf16",
): ParameterGroup[] {
  const adam = { kind: "adam", beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0 } as const;
  const muon: OptimizerConfig = {
    kind: "muon",
    ...{ momentum: 0.95, nesterov: true, newton_schulz_steps: 5, precision: muonPrecision, weight_decay: 0 },
    ...(momentumWarmupSteps > 0 && {
      momentum_warmup: { start: startingMomentum, steps: momentumWarmupSteps },
    }),
  };
  const { token_embedding, matrices, scalars } = golfRates;
  return [
    {
      ...{ id: "token_embedding", optimizer: adam, rateScale: token_embedding },
      has: ({ class: kind }) => kind === "embedding",
    },
    {
      ...{ id: "matrices", optimizer: muon, rateScale: matrices },
      has: ({ class: kind, shape }) => kind === "matrix" && shape.length === 2,
    },
    { id: "scalars", optimizer: adam, rateScale: scalars, has: () => true },
  ];
}

export function golfSchedule({
  time_budget_seconds: seconds,
  warm_down_steps,
  max_steps: total_steps,
}: GolfSettings): Schedule {
  if (seconds > 0) return { kind: "warm_down_by_time", budget_ms: 1000 * seconds, warm_down_steps };
  return warm_down_steps > 0 ? { kind: "warm_down", total_steps, warm_down_steps } : { kind: "constant" };
}

export function golfTrainerConfig(s: GolfSettings): TrainerConfig {
  return {
    ...{ seed: s.seed, sequences: s.sequences, accumulation: s.accumulation, learningRate: 1 },
    ...{ schedule: golfSchedule(s), groups: golfGroups(s.momentum_warmup_steps) },
    ...{ clip: Number.POSITIVE_INFINITY, precision: s.precision, recompute: s.recompute },
  };
}

/** `tiny` has whatever vocabulary the tokenizer has, to try a run out. */
export function golfModel({ model, length }: GolfSettings, vocabularySize: number): TrainedModel {
  if (model === "baseline_sp1024_9x512") return golf({ ...golfBaseline, contextLength: length });
  const narrow = { width: 64, layers: 3, heads: 2, kvHeads: 1, headDim: 32, feedForwardFactor: 2 };
  return golf({ ...golfBaseline, ...narrow, vocabularySize, contextLength: length });
}

/** What a trainer wants to see of its data where batches come from a loader. */
export const placeholderWindows = (length: number): Windows =>
  windowsOf([new Int32Array(length + 1)], length, length);
