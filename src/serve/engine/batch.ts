import { unexpected } from "../../core/error.ts";
import type { SampleEntry } from "../../ir/ops/sample.ts";
import type { StateKeep } from "../../models/model.ts";
import type { CacheMemory } from "./cache_memory.ts";
import type { PoolingPlan } from "./pooling.ts";
import type { SamplingSettings } from "./sampling_settings.ts";
import type { Ranked } from "./select.ts";

/** How the device is to choose the token of an output row, where it does so. */
export type TokenChoice = {
  /** Among the output rows. */
  readonly row: number;
  /** Some that `sampledOnDevice` takes. */
  readonly settings: SamplingSettings;
  /** The uniform number in [0, 1) that decides, from the request's own stream. */
  readonly place: number;
  /** Whether the token's log-probability is wanted. */
  readonly logprob: boolean;
  /** Changes of the row's logits, asked for when the device is at work on them; absent: none. */
  entries?(): readonly SampleEntry[];
  /** Words of the tokens that are allowed, asked for likewise; absent: all are. */
  mask?(): Int32Array | undefined;
};

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
  /** States to keep as they are inside the step, by row; absent: none. */
  readonly stateKeeps?: readonly StateKeep[];
  readonly sequenceCount: number;
  readonly maxPages: number;
  /** [R], ascending */
  readonly outputRows: Int32Array;
  /** Rows whose hidden states are wanted, ascending; absent: none. */
  readonly hiddenRows?: Int32Array;
  /** By row, ascending: what is chosen on the device. Rows without leave it to the reader. */
  readonly choices?: readonly TokenChoice[];
  /** Of a started step: likeliest tokens of each row that will be read; absent: none, nor sums. */
  readonly ranks?: number;
  /** Of a step started behind another, [T]: the row of that one whose chosen token is computed; `tokens` do not count then. */
  readonly follows?: Int32Array;
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
  /** What the device chose for a row, with its log-probability or NaN; undefined where the batch has no choice for it. */
  chosen(row: number): ChosenToken | undefined;
  /** Hidden states of the batch's `hiddenRows`, f32 [H, D]. */
  hidden(): Float32Array;
}

export type ChosenToken = { readonly token: number; readonly logprob: number };

/** A step that the device was given. */
export interface StartedStep {
  /** Waits for it. Only what was asked for can be had: no copies of rows and no hidden states. */
  results(): Logits;
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
  /** Gives an idle device a little to do before a step, so that it is awake by then; absent: it need not be. */
  rouse?(): void;
  /** Whether the device chooses tokens, so that batches may have choices; absent: it does not. */
  readonly chooses?: boolean;
  /**
   * Gives the device one token of each sequence and returns at once, so that the next step can be started before this one is
   * read; undefined, with nothing done, where the batch is another kind of step or the device cannot: then it is run.
   */
  start?(batch: Batch): StartedStep | undefined;
  /** Whether states can be kept inside a step; absent: only after one. */
  readonly keepsInside?: boolean;
  /** Copies the recurrent state of one slot to another, after the steps that were run. */
  copyState(from: number, to: number): void;
}

/** A cache group as the scheduler sees it. */
export type GroupShape = {
  /** 0 = full attention */
  readonly window: number;
  readonly pages: number;
};
