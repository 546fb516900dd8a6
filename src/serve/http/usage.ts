import type { GenerationSummary } from "../generation.ts";

/** `usage` of an answer. */
export function usageOf(summary: GenerationSummary) {
  return {
    prompt_tokens: summary.promptTokens,
    completion_tokens: summary.completionTokens,
    total_tokens: summary.promptTokens + summary.completionTokens,
    prompt_tokens_details: { cached_tokens: summary.cachedTokens },
    completion_tokens_details: { reasoning_tokens: summary.reasoningTokens },
  };
}
