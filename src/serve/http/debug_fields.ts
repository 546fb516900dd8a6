import type { GenerationSummary } from "../generation.ts";

/** `psionic_metrics`: times in nanoseconds, fields absent when unknown. */
export function debugFields(
  summary: GenerationSummary,
  causes: readonly string[],
  contextLength: number,
): { readonly psionic_metrics: object } {
  return {
    psionic_metrics: {
      total_duration_ns: nanoseconds(summary.totalMs),
      prompt_eval_count: summary.promptTokens - summary.cachedTokens,
      prompt_eval_duration_ns: nanoseconds(summary.prefillMs),
      context_window: contextLength,
      eval_count: summary.completionTokens,
      eval_duration_ns: nanoseconds(summary.decodeMs),
      time_to_first_token_ns: nanoseconds(summary.firstTokenMs),
      inter_token_latency_ns: nanoseconds(summary.interTokenMs),
      prefix_tokens_reused: summary.cachedTokens,
      termination_detail: { cause: causes[0] },
    },
  };
}

function nanoseconds(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : Math.round(ms * 1e6);
}
