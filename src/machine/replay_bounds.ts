/** How far values may lie from the worker's where other kernels computed them; where they are the same, not at all. */
import { refuse, type WorkClass } from "./contract.ts";

export type ReplayBounds = {
  /** Of a step's loss, |claimed - observed| over |observed|. */
  readonly loss: number;
  /** Of a step's gradient norm, likewise. */
  readonly gradientNorm: number;
  /** Of a segment's end state: |claimed - observed| over |observed - state at its beginning|, Euclidean, all weights. */
  readonly update: number;
  /** Of the first moments, and of the roots of the second: the same over |observed|, of the tensor that is furthest off. */
  readonly moments: number;
  /** Of first moment over root of second, over |observed|, all of them together. */
  readonly direction: number;
};

export type TrainedWith = { readonly name: string; readonly precision: string };

const base: ReplayBounds = {
  ...{ loss: 1e-5, gradientNorm: 1e-4, update: 5e-4 },
  ...{ moments: 1e-3, direction: 2e-3 },
};

/**
 * By class of work. Measured between instruction sets of the processor that round differently, five profiles a class:
 * `update` at most 1.1e-4 and for adapters 1.9e-4, losses 1.1e-7, norms 3.0e-7, moments 9.1e-5, directions 1.9e-4
 * (docs/validation.md). A learning rate 1 % off moves `update` by 0.01, ten times what is let pass. Grouped work is not
 * here: what a stage hands on is compared bit for bit or not at all.
 */
const bounds: Partial<Readonly<Record<WorkClass, ReplayBounds>>> = {
  adapter_training: { ...base, update: 1e-3 },
  small_model_local_training: base,
  full_island_local_update_training: base,
};

/** Optimisers whose steps carry a difference of rounding on as it is. Muon's iteration makes 1 % of it. */
const steady: readonly string[] = ["adam_w"];

/**
 * Throws `unsupported_topology` for work that only the worker's own kernels can judge. In bf16 honest work of width 128
 * comes out 5.3e-3 apart, half of what a learning rate 1 % off makes, so no bound would tell the two from each other.
 */
export function boundsOf(work: WorkClass, { name, precision }: TrainedWith): ReplayBounds {
  const found = bounds[work];
  if (found && steady.includes(name) && precision === "f32") return found;
  return refuse(
    "unsupported_topology",
    `${work} with ${name} in ${precision} cannot be judged on other kernels than the worker's`,
  );
}
