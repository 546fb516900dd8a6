/** Prompt tokens of one step when nobody is generating: enough rows for the matrix kernels to reach their peak. */
export const promptTokensPerStep = 512;

/** While others generate, the prompt part of a step should take no longer than this. */
const promptShareMs = 80;
const leastShare = 32;
const largestShare = 256;
/** Before anything was measured. */
const firstShare = 64;
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

  tokens(generating: number): number {
    if (generating === 0) return promptTokensPerStep;
    if (this.msPerToken === undefined) return firstShare;
    const share = Math.floor(promptShareMs / this.msPerToken / 16) * 16;
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
