import type { BackendTruth, EngineOptions } from "../protocol.ts";

const native = {
  executionMode: "native",
  executionEngine: "psionic",
  hybridOffload: "unsupported",
  fallbackPolicy: "refuse",
} as const;

/** What is true of every model on a backend. */
export const backendTruths: Readonly<Record<EngineOptions["backend"], BackendTruth>> = {
  cpu: {
    backend: "cpu",
    ...native,
    residencyMode: "cpu_only",
    performanceClass: "portable_cpu_degraded",
  },
  cuda: {
    backend: "cuda",
    ...native,
    residencyMode: "cuda_accelerated",
    performanceClass: "nvidia_native",
  },
  metal: {
    backend: "metal",
    ...native,
    residencyMode: "metal_accelerated",
    performanceClass: "apple_silicon_native",
  },
  "metal-standin": {
    backend: "metal-standin",
    ...native,
    executionMode: "emulated",
    residencyMode: "cpu_only",
    performanceClass: "test_standin",
  },
};
