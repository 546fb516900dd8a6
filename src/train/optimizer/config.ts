import { unexpected } from "../../core/error.ts";
import type { ParameterSpec } from "../model.ts";

/** An optimiser as receipts name it. */
export type OptimizerConfig =
  | { readonly kind: "sgd"; readonly momentum: number; readonly weight_decay: number }
  | {
      /** `adam` adds the decay to the gradient, `adam_w` takes it off the parameter. */
      readonly kind: "adam" | "adam_w";
      readonly beta1: number;
      readonly beta2: number;
      readonly epsilon: number;
      readonly weight_decay: number;
    }
  | {
      /** Momentum, then the nearest half-orthogonal matrix by Newton and Schulz; for matrices. */
      readonly kind: "muon";
      readonly momentum: number;
      /** From `start` linearly to `momentum` over the first `steps` steps. */
      readonly momentum_warmup?: { readonly start: number; readonly steps: number };
      readonly nesterov: boolean;
      readonly newton_schulz_steps: number;
      readonly precision: "f32" | "bf16";
      readonly weight_decay: number;
    };

/** The parameters that one optimiser trains; a parameter belongs to the first group that has it. */
export type ParameterGroup = {
  readonly id: string;
  readonly has: (spec: ParameterSpec) => boolean;
  readonly optimizer: OptimizerConfig;
  /** Factor on the schedule's learning rate. */
  readonly rateScale: number;
};

export const adamW = (weight_decay: number, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8): OptimizerConfig => ({
  kind: "adam_w",
  beta1,
  beta2,
  epsilon,
  weight_decay,
});

/** Decay for matrices and embeddings, none for norms and biases. */
export function adamWGroups(weightDecay: number, beta1 = 0.9, beta2 = 0.95): ParameterGroup[] {
  const plain = (s: ParameterSpec): boolean => s.class === "scalar" || s.class === "bias";
  return [
    { id: "plain", has: plain, optimizer: adamW(0, beta1, beta2), rateScale: 1 },
    { id: "decayed", has: () => true, optimizer: adamW(weightDecay, beta1, beta2), rateScale: 1 },
  ];
}

type Muon = Extract<OptimizerConfig, { kind: "muon" }>;

/** Muon's momentum in step `step`, which counts from 1. */
export function momentumAt({ momentum, momentum_warmup: warmup }: Muon, step: number): number {
  if (!warmup) return momentum;
  const share = Math.min(1, (step - 1) / warmup.steps);
  return (1 - share) * warmup.start + share * momentum;
}

/** Where Muon's momentum begins when it is warmed up. */
export const startingMomentum = 0.85;

/** Muon for matrices of rank 2, its momentum warmed up over `warmupSteps`, AdamW for the rest. */
export function muonGroups(muonRateScale: number, weightDecay = 0, warmupSteps = 0): ParameterGroup[] {
  const muon: OptimizerConfig = {
    kind: "muon",
    ...{
      momentum: 0.95,
      nesterov: true,
      newton_schulz_steps: 5,
      precision: "bf16",
      weight_decay: weightDecay,
    },
    ...(warmupSteps > 0 && { momentum_warmup: { start: startingMomentum, steps: warmupSteps } }),
  };
  return [
    {
      id: "matrices",
      has: ({ class: kind, shape }) => kind === "matrix" && shape.length === 2,
      optimizer: muon,
      rateScale: muonRateScale,
    },
    ...adamWGroups(weightDecay),
  ];
}

export function checkOptimizer(id: string, o: OptimizerConfig): void {
  const refuse = (name: string, value: unknown, expected: string): never => {
    throw unexpected("invalid_argument", `optimizer ${id}`, expected, `${name} ${value}`);
  };
  if (!(o.weight_decay >= 0)) refuse("weight_decay", o.weight_decay, "a weight decay of at least 0");
  const fractions = "beta1" in o ? { beta1: o.beta1, beta2: o.beta2 } : { momentum: o.momentum };
  for (const [name, value] of Object.entries(fractions)) {
    if (!(value >= 0 && value < 1)) refuse(name, value, "a number from 0 to below 1");
  }
  if (o.kind === "muon" && o.momentum_warmup) {
    const { start, steps } = o.momentum_warmup;
    if (!(start >= 0 && start < 1)) refuse("momentum_warmup.start", start, "a number from 0 to below 1");
    if (!(Number.isInteger(steps) && steps >= 1))
      refuse("momentum_warmup.steps", steps, "a whole number of at least 1");
  }
  if ("epsilon" in o && !(o.epsilon > 0)) refuse("epsilon", o.epsilon, "an epsilon above 0");
}
