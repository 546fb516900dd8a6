/** How fast the last window of a run went, against all of its steps. */
import { median } from "./evidence.ts";
import type { CheckpointLimits } from "./lanes/lane.ts";
import type { TracedStep } from "./trainer.ts";

type Rates = { readonly tokensPerSecond: number; readonly stepMs: number };

export type Speed = {
  /** Medians over all steps, and over those of the last window; undefined where there is no step. */
  readonly all: Rates | undefined;
  readonly recent: Rates | undefined;
  /** Of the loader; undefined where none was counted. */
  readonly stalls: number | undefined;
  /** Whether there are steps enough to say that a window is a slow one. */
  readonly telling: boolean;
};

/** Fewer windows, or fewer steps, say nothing of a change. */
const [leastWindows, leastSteps] = [4, 32];

export function speedOf(steps: readonly TracedStep[], window: number): Speed {
  const counted = steps.flatMap((s) => s.stalls ?? []);
  return {
    all: ratesOf(steps),
    recent: ratesOf(steps.slice(-window)),
    stalls: counted.length > 0 ? counted.reduce((a, b) => a + b, 0) : undefined,
    telling: steps.length >= Math.max(leastSteps, leastWindows * window),
  };
}

function ratesOf(steps: readonly TracedStep[]): Rates | undefined {
  if (steps.length === 0) return undefined;
  return {
    tokensPerSecond: median(steps.map((s) => (1000 * s.tokens) / Math.max(s.durationMs, 1e-3)))!,
    stepMs: median(steps.map((s) => s.durationMs))!,
  };
}

/** In hundredths of a percent; undefined where there is nothing to compare. */
export const ratioBps = (last: number | undefined, all: number | undefined): number | undefined =>
  last === undefined || !all ? undefined : Math.round((10000 * last) / all);

/** Which limits of the lane the last window has passed; none where too few steps were run to say. */
export function slownesses({ all, recent, stalls, telling }: Speed, limits: CheckpointLimits): string[] {
  if (!telling || !all || !recent) return [];
  const found: string[] = [];
  const share = (bps: number): string => `${(bps / 100).toFixed(0)} %`;
  const speed = ratioBps(recent.tokensPerSecond, all.tokensPerSecond)!;
  const latency = ratioBps(recent.stepMs, all.stepMs)!;
  if (speed < limits.leastThroughputRatioBps)
    found.push(`The last window's tokens per second are ${share(speed)} of the run's.`);
  if (latency > limits.mostStepLatencyRatioBps)
    found.push(`The last window's steps took ${share(latency)} of the run's time.`);
  if ((stalls ?? 0) > limits.mostLoaderStalls) found.push(`The loader stalled ${stalls} times.`);
  return found;
}
