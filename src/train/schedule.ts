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
  | { readonly kind: "warm_down"; readonly total_steps: number; readonly warm_down_steps: number }
  /**
   * The rate, then linear to 0 as the time that steps may take runs out: over as long as `warm_down_steps` take, by the mean
   * of the steps so far. With 0 of them the rate stays. The rates are those of the machine's speed, so not the same twice.
   */
  | { readonly kind: "warm_down_by_time"; readonly budget_ms: number; readonly warm_down_steps: number };

const cosine = (from: number, to: number, progress: number): number =>
  to + 0.5 * (from - to) * (1 + Math.cos(Math.PI * progress));

/** The learning rate of step `step`, which counts from 1; `elapsedMs`: what the steps before it took. */
export function rateAt(schedule: Schedule, rate: number, step: number, elapsedMs = 0): number {
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
    case "warm_down_by_time": {
      const { budget_ms: budget, warm_down_steps: steps } = schedule;
      const span = step > 1 ? (steps * elapsedMs) / (step - 1) : 0;
      const left = Math.max(0, budget - elapsedMs);
      return left <= span && span > 0 ? rate * (left / span) : rate;
    }
  }
}

/** Throws for a schedule whose numbers make no rates. */
export function checkSchedule(schedule: Schedule): void {
  for (const [name, value] of Object.entries(schedule)) {
    const whole = name.endsWith("_steps") || name === "step_size";
    const least = schedule.kind === "warm_down_by_time" && name === "warm_down_steps" ? 0 : 1;
    const atLeast = ["step_size", "warm_down_steps", "total_steps", "budget_ms"].includes(name) ? least : 0;
    const fits =
      typeof value === "string" ||
      (Number.isFinite(value) && value >= 0 && (!whole || Number.isInteger(value)));
    if (!fits || (typeof value === "number" && value < atLeast)) {
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
