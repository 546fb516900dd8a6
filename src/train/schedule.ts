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
  | { readonly kind: "warm_down_by_time"; readonly budget_ms: number; readonly warm_down_steps: number }
  /**
   * From 0 to the rate over `warmup_steps`, and linear to 0 over the last `fall_share` of the way, 0..1. The way is all steps
   * or, where a budget above 0 is spent sooner, the time that steps may take.
   */
  | {
      readonly kind: "rise_and_fall";
      readonly total_steps: number;
      readonly budget_ms: number;
      readonly warmup_steps: number;
      readonly fall_share: number;
    };

/** What steps may take together; undefined: as long as they need. */
export function budgetOf(schedule: Schedule): number | undefined {
  const budget = "budget_ms" in schedule ? schedule.budget_ms : 0;
  return budget > 0 ? budget : undefined;
}

/** Share of the way that lies behind step `step`, 0..1; 0 where a schedule has no end. */
export function progressAt(schedule: Schedule, step: number, elapsedMs = 0): number {
  const steps = "total_steps" in schedule ? (step - 1) / schedule.total_steps : 0;
  return Math.min(1, Math.max(steps, elapsedMs / (budgetOf(schedule) ?? Number.POSITIVE_INFINITY)));
}

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
    case "rise_and_fall": {
      const left = 1 - progressAt(schedule, step, elapsedMs);
      const risen = Math.min(1, step / Math.max(1, schedule.warmup_steps));
      return rate * risen * (schedule.fall_share > 0 ? Math.min(1, left / schedule.fall_share) : 1);
    }
    case "warm_down_by_time": {
      const { budget_ms: budget, warm_down_steps: steps } = schedule;
      const span = step > 1 ? (steps * elapsedMs) / (step - 1) : 0;
      const left = Math.max(0, budget - elapsedMs);
      return left <= span && span > 0 ? rate * (left / span) : rate;
    }
  }
}

const risesFromStart = ({ kind }: Schedule): boolean => kind === "warmup_cosine" || kind === "rise_and_fall";

/** Throws for a schedule whose numbers make no rates. */
export function checkSchedule(schedule: Schedule): void {
  for (const [name, value] of Object.entries(schedule)) {
    const whole = name.endsWith("_steps") || name === "step_size";
    const open = schedule.kind === "warm_down_by_time" ? "warm_down_steps" : "budget_ms";
    const least = "budget_ms" in schedule && name === open ? 0 : 1;
    const atLeast = ["step_size", "warm_down_steps", "total_steps", "budget_ms"].includes(name) ? least : 0;
    const fits =
      typeof value === "string" ||
      (Number.isFinite(value) && value >= 0 && (!whole || Number.isInteger(value)));
    if (!fits || (typeof value === "number" && value < atLeast)) {
      throw unexpected("invalid_argument", `schedule ${schedule.kind}`, `a usable ${name}`, value);
    }
  }
  if ("fall_share" in schedule && schedule.fall_share > 1) {
    throw unexpected(
      "invalid_argument",
      `schedule ${schedule.kind}`,
      "a fall_share of at most 1",
      schedule.fall_share,
    );
  }
  if ("warmup_steps" in schedule && schedule.warmup_steps < 1 && !risesFromStart(schedule)) {
    throw unexpected(
      "invalid_argument",
      `schedule ${schedule.kind}`,
      "warmup_steps of at least 1",
      schedule.warmup_steps,
    );
  }
}
