import { unexpected } from "../core/error.ts";

/** Learning rates by 1-based step, as receipts name them; `warmup_cosine` and `warm_down` are of this implementation. */
export type Schedule =
  | { readonly kind: "constant" }
  | { readonly kind: "step_lr"; readonly step_size: number; readonly gamma: number }
  | { readonly kind: "linear_warmup"; readonly start_factor: number; readonly warmup_steps: number }
  | { readonly kind: "inverse_square_root_warmup"; readonly warmup_steps: number }
  | { readonly kind: "cosine_annealing"; readonly total_steps: number; readonly min_learning_rate: number }
  /** Linear from 0 to the rate, then a cosine down to the least. */
  | {
      readonly kind: "warmup_cosine";
      readonly warmup_steps: number;
      readonly total_steps: number;
      readonly min_learning_rate: number;
    }
  /** The rate, then linear to 0 over the last `warm_down_steps`. */
  | { readonly kind: "warm_down"; readonly total_steps: number; readonly warm_down_steps: number };

const cosine = (from: number, to: number, progress: number): number =>
  to + 0.5 * (from - to) * (1 + Math.cos(Math.PI * progress));

/** The learning rate of step `step`, which counts from 1. */
export function rateAt(schedule: Schedule, rate: number, step: number): number {
  switch (schedule.kind) {
    case "constant":
      return rate;
    case "step_lr":
      return rate * schedule.gamma ** Math.floor((step - 1) / schedule.step_size);
    case "linear_warmup": {
      const { start_factor: start, warmup_steps: steps } = schedule;
      return rate * (start + ((1 - start) * Math.min(step, steps)) / steps);
    }
    case "inverse_square_root_warmup":
      return step <= schedule.warmup_steps
        ? (rate * step) / schedule.warmup_steps
        : rate * Math.sqrt(schedule.warmup_steps / step);
    case "cosine_annealing": {
      const last = schedule.total_steps - 1;
      return cosine(rate, schedule.min_learning_rate, last > 0 ? Math.min(step - 1, last) / last : 0);
    }
    case "warmup_cosine": {
      const { warmup_steps: warm, total_steps: total, min_learning_rate: least } = schedule;
      if (step <= warm) return (rate * step) / warm;
      return cosine(rate, least, total > warm ? Math.min(step - warm, total - warm) / (total - warm) : 1);
    }
    case "warm_down": {
      const left = schedule.total_steps - step + 1;
      return rate * Math.min(1, Math.max(0, left / schedule.warm_down_steps));
    }
  }
}

/** Throws for a schedule whose numbers make no rates. */
export function checkSchedule(schedule: Schedule): void {
  for (const [name, value] of Object.entries(schedule)) {
    const whole = name.endsWith("_steps") || name === "step_size";
    const fits =
      typeof value === "string" ||
      (Number.isFinite(value) && value >= 0 && (!whole || Number.isInteger(value)));
    if (
      !fits ||
      ((name === "step_size" || name === "warm_down_steps" || name === "total_steps") && value < 1)
    ) {
      throw unexpected("invalid_argument", `schedule ${schedule.kind}`, `a usable ${name}`, value);
    }
  }
  if ("warmup_steps" in schedule && schedule.warmup_steps < 1 && schedule.kind !== "warmup_cosine") {
    throw unexpected(
      "invalid_argument",
      `schedule ${schedule.kind}`,
      "warmup_steps of at least 1",
      schedule.warmup_steps,
    );
  }
}
