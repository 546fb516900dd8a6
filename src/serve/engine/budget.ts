import { backendLimits, type PromptLimits } from "./backend_limits.ts";

/** Weight of the newest measurement. */
const smoothing = 0.3;
/** Chunks shorter than this cost as much as their weights take to read and say nothing about longer ones. */
const leastMeasured = 16;

/**
 * How many prompt tokens a step may carry. Bounds the time between two tokens of a running stream by the measured speed
 * of this machine; results do not depend on it, since a token's arithmetic is the same in every chunk.
 */
export class PromptBudget {
  private msPerToken: number | undefined;
  private readonly limits: PromptLimits;

  constructor(limits: PromptLimits = backendLimits.cpu.prompt) {
    this.limits = limits;
  }

  tokens(generating: number): number {
    const { perStep, shareMs, firstShare, leastShare, largestShare } = this.limits;
    if (generating === 0) return perStep;
    if (this.msPerToken === undefined) return firstShare;
    const share = Math.floor(shareMs / this.msPerToken / 16) * 16;
    return Math.min(largestShare, Math.max(leastShare, share));
  }

  /** Takes in the duration of a step that carried prompt tokens. */
  measured(promptTokens: number, durationMs: number): void {
    if (promptTokens < leastMeasured) return;
    const ms = durationMs / promptTokens;
    this.msPerToken =
      this.msPerToken === undefined ? ms : this.msPerToken + smoothing * (ms - this.msPerToken);
  }
}
