import type { DType } from "../core/dtype.ts";
import type { Shape } from "../core/shape.ts";
import type { Tensor } from "../runtime/tensor.ts";

/** A cache element type. */
/** Elements of keys and values in a cache; fp8, e4m3 without scales, is not on Metal. */
export const cacheTypes = ["f32", "f16", "bf16", "fp8", "q8_0"] as const satisfies readonly DType[];
export type CacheType = (typeof cacheTypes)[number];

/**
 * Layers that keep keys and values in the same way and so share one page table: all full-attention layers of a model
 * are one group, its sliding-window layers another.
 */
export type CacheGroup = {
  /** 0 = every position; otherwise only the last `window` positions are ever read. */
  readonly window: number;
  readonly layers: readonly number[];
  readonly kvHeads: number;
  readonly headDim: number;
};

/**
 * Pages of one group: `keys[i]` and `values[i]` belong to `group.layers[i]`; each holds `pageCount` pages. What is to be freed
 * is `memory`: where the device copies rows it is one tensor that has keys and values of each layer in turn, so that a page of
 * all layers is rows of one stride; elsewhere all of them, since a buffer of a Mac's GPU has a largest size.
 */
export type CachePool = {
  readonly group: CacheGroup;
  readonly cacheType: CacheType;
  readonly pageSize: number;
  readonly pageCount: number;
  readonly memory: readonly Tensor[];
  readonly keys: readonly Tensor[];
  readonly values: readonly Tensor[];
};

/**
 * What the recurrent layers of a model carry from token to token in the place of keys and values: per layer and sequence
 * two f32 tensors of these shapes, which do not grow with the context.
 */
export type RecurrentShape = {
  readonly layers: readonly number[];
  /** [K - 1, C]: inputs of the causal convolution that came before */
  readonly convolution: Shape;
  /** [H, rows, value width]: the memory of each value head, a row a key element; below it a chunk's tokens, where the device wants them */
  readonly memory: Shape;
};

/**
 * States of `slotCount` sequences. The layers of a slot lie side by side, so that a state is copied in two pieces; the
 * tensors of layer l begin at that layer of slot 0 and count in layers: kernels find slot s at row `s * layers`.
 */
export type StatePool = {
  readonly shape: RecurrentShape;
  readonly slotCount: number;
  /** per layer: [rows, K - 1, C] */
  readonly convolutions: readonly Tensor[];
  /** per layer: [rows, H, rows of a memory, value width] */
  readonly memories: readonly Tensor[];
};

/** A state to be copied in the middle of a step: as it is before row `row` of the batch, from one slot to another. */
export type StateKeep = { readonly row: number; readonly from: number; readonly to: number };

/** The states of a step's sequences. A sequence whose first token has position 0 starts from a state of zeros. */
export type StepStates = {
  readonly pool: StatePool;
  /** i32 [T], row of `rows` */
  readonly sequences: Tensor;
  /** i32 [S], row of each sequence's state in the pool's tensors */
  readonly rows: Tensor;
  /** By row, ascending; absent: none. */
  readonly keeps?: readonly StateKeep[];
};

/**
 * One forward pass over a flat batch: T tokens of S sequences, in any mix of prompt chunks and single generated tokens.
 * Tokens of a sequence stand together and in order.
 */
export type Step = {
  /** i32 [T] */
  readonly tokens: Tensor;
  /** i32 [T], position of each token in its sequence */
  readonly positions: Tensor;
  /** i32 [T], row of the page tables */
  readonly sequences: Tensor;
  /** per cache group: i32 [S, maxPages]; -1 where no page is held */
  readonly pageTables: readonly Tensor[];
  readonly pools: readonly CachePool[];
  /** Of models with recurrent layers, and only of those. */
  readonly states?: StepStates;
  /** i32 [R], rows of the batch whose logits are wanted, ascending */
  readonly outputRows: Tensor;
};

/** Scores of labels from a hidden state: weights f32 [labels, D] and bias f32 [labels], on the host. */
export type Classifier = { readonly weights: Float32Array; readonly bias: Float32Array };

export type ModelConfig = {
  readonly architecture: string;
  readonly name: string;
  readonly vocabularySize: number;
  readonly contextLength: number;
  readonly width: number;
  readonly layers: number;
  /** From which a router chooses in sparse layers; 0 or absent: none. */
  readonly experts?: number;
};

/**
 * What a decoder computes, in the caller's scope: `hidden` writes keys, values and states into the pools and gives the
 * normed hidden states f32 [R, D] of the wanted rows, `logits` what the head makes of them, f32 [R, V], and `forward`
 * both, one after the other.
 */
export type Decoder = {
  readonly hidden: (step: Step) => Tensor;
  readonly logits: (hidden: Tensor) => Tensor;
  readonly forward: (step: Step) => Tensor;
};

export function decoder(hidden: Decoder["hidden"], logits: Decoder["logits"]): Decoder {
  return { hidden, logits, forward: (step) => logits(hidden(step)) };
}

/** A loaded decoder. */
export interface Model extends Decoder {
  readonly config: ModelConfig;
  readonly cacheGroups: readonly CacheGroup[];
  /** Absent: no layer is recurrent. */
  readonly recurrent?: RecurrentShape;
  /** What a reranker's files have in the place of a vocabulary: scores of pooled hidden states. */
  readonly classifier?: Classifier;
  /** What a user should know of how the file was read, in sentences. */
  readonly notes?: readonly string[];
  readonly parameters: number;
  /** Bytes this model keeps resident for weights. */
  readonly weightBytes: number;
  free(): void;
}
