import { unexpected } from "../../core/error.ts";
import type { CacheMemory } from "./cache_memory.ts";
import type { PoolingPlan } from "./pooling.ts";
import type { Ranked } from "./select.ts";

/** One step of the engine as plain arrays: T tokens of S sequences, R rows whose logits are wanted. */
export type Batch = {
  /** [T] */
  readonly tokens: Int32Array;
  /** [T] */
  readonly positions: Int32Array;
  /** [T], row of the page tables */
  readonly sequences: Int32Array;
  /** per cache group [S, maxPages], -1 where no page is held */
  readonly pageTables: readonly Int32Array[];
  /** Of models with recurrent layers: the state slot of each sequence, [S]. */
  readonly stateSlots?: Int32Array;
  readonly sequenceCount: number;
  readonly maxPages: number;
  /** [R], ascending */
  readonly outputRows: Int32Array;
  /** Rows whose hidden states are wanted, ascending; absent: none. */
  readonly hiddenRows?: Int32Array;
};

/** State slots of a batch for a model with recurrent layers. */
export function slotsOf({ stateSlots }: Batch): Int32Array {
  if (stateSlots) return stateSlots;
  throw unexpected("internal", "step", "a state slot for each sequence", "none");
}

/** Logits of a step's output rows; valid until the reader returns. */
export interface Logits {
  readonly rows: number;
  /** Position of the largest logit of each row. */
  argmax(): Int32Array;
  /** The k largest of each row. */
  topK(k: number): readonly Ranked[];
  /** log(sum(exp)) of each row. */
  logSumExp(): Float32Array;
  /** A copy of one row, f32 [V]. */
  copy(row: number): Float32Array;
  /** Hidden states of the batch's `hiddenRows`, f32 [H, D]. */
  hidden(): Float32Array;
}

/** Runs steps: the model on its device, or a double in scheduler tests. */
export interface StepExecutor {
  readonly vocabularySize: number;
  /** How vectors are made of hidden states; absent: there are none to be had. */
  readonly pooling?: PoolingPlan | undefined;
  /** The bytes behind pages and states; absent: they cannot be had. */
  readonly cacheMemory?: CacheMemory;
  /**
   * Runs a batch and hands its logits to `read`; nothing of them outlives the call. `meanwhile` is for other work of this
   * thread: called once before `read`, while the device computes if it does so on its own.
   */
  run(batch: Batch, read: (logits: Logits) => void, meanwhile?: () => void): void;
  /** Copies the recurrent state of one slot to another, after the steps that were run. */
  copyState(from: number, to: number): void;
}

/** A cache group as the scheduler sees it. */
export type GroupShape = {
  /** 0 = full attention */
  readonly window: number;
  readonly pages: number;
};
