import type { Shape } from "../core/shape.ts";
import type { CrossEntropyParams } from "../ir/ops/cross_entropy.ts";
import type { Block } from "../runtime/tape.ts";
import type { Tensor } from "../runtime/tensor.ts";

/** What a parameter is, for optimisers and receipts. */
export type ParameterClass = "embedding" | "matrix" | "head" | "scalar" | "bias";

export type Initial =
  | { readonly kind: "normal"; readonly deviation: number }
  /** Between -limit and limit. */
  | { readonly kind: "uniform"; readonly limit: number }
  | { readonly kind: "constant"; readonly value: number };

export type ParameterSpec = {
  readonly name: string;
  readonly shape: Shape;
  readonly class: ParameterClass;
  readonly initial: Initial;
};

/** Whole sequences as flat rows: tokens, targets and positions i32 [sequences * length]; a target below 0 does not count. */
export type Batch = {
  readonly sequences: number;
  readonly length: number;
  readonly tokens: Tensor;
  readonly targets: Tensor;
  readonly positions: Tensor;
  /** First position that each row sees, where documents are packed into one sequence. */
  readonly first?: Tensor;
};

/** What a model file sees of its surroundings. */
export type Scene = {
  /** A parameter as the forward pass computes with it. */
  weight(name: string): Tensor;
  /** What matrix products take and give; h itself, losses and what routers choose by are f32. */
  readonly compute: "f32" | "bf16";
  /**
   * The losses of the rows of x [rows, D] under the head w [V, D]; or, where the trainer makes their gradients with them,
   * one number for all, which `rows` of the losses may be as well.
   */
  loss(x: Tensor, w: Tensor, bias: Tensor | undefined, targets: Tensor, params?: CrossEntropyParams): Tensor;
  /** Host data as a temporary. */
  constant(dtype: "f32" | "i32", shape: Shape, data: Float32Array | Int32Array): Tensor;
  /** y = body(x, ...more), of x's shape; the walk may run it again instead of keeping what it makes. */
  block(body: Block, x: Tensor, ...more: Tensor[]): Tensor;
};

/** The loss of each row [rows], and what is added to the mean loss [1], such as the load-balance loss of a router. */
export type Losses = { readonly rows: Tensor; readonly extra?: Tensor };

/** A part of a model that passes h [rows, width] on; the first makes it of the batch, the last makes row losses of it. */
export type ModelPart = {
  readonly parameters: readonly ParameterSpec[];
  run(scene: Scene, batch: Batch, h?: Tensor): Tensor;
};

/** The same model in parts that may stand on several hosts: embedding, layers, head. */
export type ModelParts = {
  readonly width: number;
  /** No parameter belongs to two. */
  readonly list: readonly ModelPart[];
};

/** A model that can be trained: its parameters and its loss. */
export type TrainedModel = {
  readonly id: string;
  readonly vocabularySize: number;
  readonly contextLength: number;
  readonly parameters: readonly ParameterSpec[];
  losses(scene: Scene, batch: Batch): Losses;
  /** Absent where parts would share parameters. */
  readonly parts?: ModelParts;
  /** Floating-point operations of a token, forward and backward, in sequences of `length`. */
  flopsPerToken(length: number): number;
};

export const normal = (deviation: number): Initial => ({ kind: "normal", deviation });
export const uniform = (limit: number): Initial => ({ kind: "uniform", limit });
export const constant = (value: number): Initial => ({ kind: "constant", value });

export function parameterCount(model: Pick<TrainedModel, "parameters">): number {
  return model.parameters.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
}

/**
 * 6 operations per matrix weight a token passes, plus attention: 12 * layers * width * length, half of it for a causal mask
 * (PaLM, arXiv:2204.02311, appendix B).
 */
export function decoderFlopsPerToken(
  matrixWeights: number,
  layers: number,
  width: number,
  length: number,
): number {
  return 6 * matrixWeights + 6 * layers * width * length;
}
