/** How far values may lie from the worker's where other kernels computed them; where they are the same, not at all. */
import type { WorkClass } from "./contract.ts";

export type ReplayBounds = {
  /** Of a step's loss, |claimed - observed| over |observed|. */
  readonly loss: number;
  /** Of a step's gradient norm, likewise. */
  readonly gradientNorm: number;
  /** Of a segment's end state: |claimed - observed| over |observed - state at its beginning|, Euclidean, all weights. */
  readonly update: number;
};

/**
 * By class of work. A learning rate 1 % off moves `update` by 0.01, so that every bound on it lies well below. Measured, as
 * docs/validation.md tells, between the two instruction sets of the CPU and the kernels of CUDA.
 */
const bounds: Partial<Readonly<Record<WorkClass, ReplayBounds>>> = {
  adapter_training: { loss: 1e-4, gradientNorm: 1e-3, update: 4e-3 },
  small_model_local_training: { loss: 1e-4, gradientNorm: 1e-3, update: 4e-3 },
  grouped_replica_stage_execution: { loss: 1e-4, gradientNorm: 1e-3, update: 4e-3 },
  full_island_local_update_training: { loss: 1e-4, gradientNorm: 1e-3, update: 4e-3 },
};

/** Throws where a class has none: it cannot be judged by other kernels. */
export const boundsOf = (work: WorkClass): ReplayBounds | undefined => bounds[work];
