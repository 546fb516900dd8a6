import { freemem } from "node:os";
import { openDevice } from "../backends/index.ts";
import { type PsionicError, unexpected } from "../core/error.ts";
import type { Listener } from "../runtime/device.ts";
import type { RunParts } from "./lanes/lane.ts";
import { parameterCount } from "./model.ts";
import { Trainer } from "./trainer.ts";

/** Where training computes. */
export const trainingBackends = ["cpu", "cuda", "metal", "metal-standin"] as const;
export type TrainingBackend = (typeof trainingBackends)[number];

/** Bytes that training takes, from a step over shapes alone. */
export type MemoryPlan = {
  readonly parameters: number;
  /** Parameters, gradients, moments and averages. */
  readonly stateBytes: number;
  /** Activations and gradients of a microbatch, with scratch. */
  readonly stepBytes: number;
  readonly totalBytes: number;
};

/** For training on `backend`, whose ops and types of activations a step has; `hear` is told of each call of that step. */
export function planMemory(
  { model, train, config }: Pick<RunParts, "model" | "train" | "config">,
  backend: TrainingBackend = "cpu",
  hear?: Listener,
): MemoryPlan {
  const device = openDevice("meta", { like: backend });
  if (hear) device.listeners.add(hear);
  try {
    using trainer = new Trainer(device, model, train, config, "none");
    const stateBytes = device.live().bytes;
    trainer.step();
    const stepBytes = device.arena.peakBytes;
    return { parameters: parameterCount(model), stateBytes, stepBytes, totalBytes: stateBytes + stepBytes };
  } finally {
    device.close();
  }
}

/** Throws `admission_refused` where the plan does not fit what this process, or the device, may still take. */
export function checkMemory(plan: MemoryPlan, available = availableBytes()): void {
  const refusal = memoryRefusal(plan, available);
  if (refusal) throw refusal;
}

/** `admission_refused` with the numbers where the plan does not fit `available` bytes. */
export function memoryRefusal(plan: MemoryPlan, available: number): PsionicError | undefined {
  if (plan.totalBytes <= available) return undefined;
  return unexpected(
    "admission_refused",
    "train",
    `${plan.totalBytes} bytes of memory`,
    `${available} available`,
    {
      fix: "Use fewer or shorter sequences, --recompute, or a smaller model",
      details: { ...plan, available },
    },
  );
}

/** What this process may still take of memory. */
export function availableBytes(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(freemem(), Math.max(0, limit - process.memoryUsage().rss)) : freemem();
}
