import type { GenerationSummary } from "../generation.ts";
import type { EngineInfo, GenerateRequest } from "../protocol.ts";

/** The truth tuple: which code answers on which device; on every answer of a model. */
export function truthHeaders(info: EngineInfo): Record<string, string> {
  const truth = info.backend;
  return {
    "x-psionic-backend": truth.backend,
    "x-psionic-execution-mode": truth.executionMode,
    "x-psionic-execution-engine": truth.executionEngine,
    "x-psionic-residency-mode": truth.residencyMode,
    "x-psionic-hybrid-offload": truth.hybridOffload,
    "x-psionic-fallback-policy": truth.fallbackPolicy,
    "x-psionic-performance-class": truth.performanceClass,
    "x-psionic-batch-posture": "continuous_batch",
    ...(info.adapter && {
      "x-psionic-adapter": info.adapter.name,
      "x-psionic-adapter-digest": info.adapter.digest,
      "x-psionic-served-adapter-digest": info.adapter.servedDigest,
    }),
  };
}

/** What is known once an answer is complete. */
export function summaryHeaders(summary: GenerationSummary, request: GenerateRequest): Record<string, string> {
  return {
    ...refusalHeaders(request),
    "x-psionic-prefix-cache-state": summary.prefixCache,
    "x-psionic-prefix-cache-reused-tokens": String(summary.cachedTokens),
    ...(summary.firstTokenMs === undefined ? {} : { "x-psionic-ttft-ns": nanoseconds(summary.firstTokenMs) }),
    ...(summary.interTokenMs === undefined ? {} : { "x-psionic-itl-ns": nanoseconds(summary.interTokenMs) }),
  };
}

/** Why the prefix cache was not used, where the request itself says so. */
export function refusalHeaders(request: GenerateRequest): Record<string, string> {
  if (request.prefixCache === "bypass") return { "x-psionic-prefix-cache-refusal": "request_opt_out" };
  if (request.prefixCache === "invalidate")
    return { "x-psionic-prefix-cache-refusal": "forced_invalidation" };
  return {};
}

function nanoseconds(ms: number): string {
  return String(Math.round(ms * 1e6));
}
