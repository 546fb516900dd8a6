import type { DType } from "../core/dtype.ts";
import type { Shape } from "../core/shape.ts";

/** Whether a weight is in the backend's packed layout; `a16`: and its products take activations of 16 bits (`Backend.a16`). */
export type Packing = boolean | "a16";

/** What shape rules, costs and argument lists see of a tensor. */
export type TensorSpec = { readonly dtype: DType; readonly shape: Shape; readonly packed: Packing };

/** A spec with a place in device memory; `address` 0 stands for an absent optional input. */
export type PlacedSpec = TensorSpec & { readonly address: number };

/** An argument of the native function, in the order of the C prototype. */
export type ArgumentType = "ptr" | "i32" | "f32" | "f64";

/** Families of kernels. */
export type BackendName = "cpu" | "cuda" | "metal";

/** What can be asked to compute: each has a library of its own. The stand-in runs Metal's kernels on the CPU, for tests. */
export type EngineBackend = BackendName | "metal-standin";

/** Whose kernels a backend runs. */
export function kernelsOf(backend: EngineBackend): BackendName {
  return backend === "metal-standin" ? "metal" : backend;
}

/** `apply` as gradient rules see it, over tensors of whoever runs them: `ir` imports nothing above it. */
export type ApplyOp<T> = <P extends object>(
  op: Op<P>,
  inputs: readonly (T | undefined)[],
  params: P,
  into?: readonly T[],
) => readonly T[];

/** The inputs of a call whose gradient is being made. */
export type GradientInputs<T> = {
  /** Whether the gradient of this input goes anywhere. */
  wanted(index: number): boolean;
  /** Where that gradient is added up, zeros at first: a rule may add to it and return it as its result. */
  sum(index: number): T;
  /** Where that gradient goes: written there, or added to what is there where `add` says so; returned as the result. */
  place(index: number): { readonly into: T; readonly add: boolean };
};

/** Gradients of the inputs, in their order; undefined where none is wanted or none exists. */
export type Gradients<T> = readonly (T | undefined)[];

export type Cost = { readonly flops: number; readonly bytes: number };

/**
 * One operation: everything that is derived elsewhere (symbol table, support matrix, memory plan, cost) stands here.
 * `P` holds the scalar parameters; inputs may be `undefined` where the op says they are optional.
 */
export interface Op<P = never> {
  /** Stem of this file, of the kernel file and of the symbol: `psi_<name>`. */
  readonly name: string;
  /** One line for the documentation. */
  readonly summary: string;
  /** Backends that have it; absent: all. Model code asks `device.backend.supports` before it calls one of the others. */
  readonly backends?: readonly BackendName[];
  readonly inputs: readonly { readonly name: string; readonly optional?: boolean }[];
  readonly params: readonly string[];
  readonly signature: readonly ArgumentType[];
  /** Shape rule; throws `[op] expected X, got Y`. */
  outputs(inputs: readonly (TensorSpec | undefined)[], params: P): readonly TensorSpec[];
  /** Index of the input whose memory output 0 is: the op works in place. */
  readonly inPlace?: number;
  /** Bytes of scratch the native function asks for. */
  scratchBytes?(inputs: readonly (TensorSpec | undefined)[], params: P): number;
  cost(inputs: readonly (TensorSpec | undefined)[], params: P, outputs: readonly TensorSpec[]): Cost;
  /** What `grad` reads: names of inputs, and out0, out1, ... */
  readonly saves?: readonly string[];
  /** The gradient, written with other ops; `dy` has one for each output that any reached. Absent: refused by name. */
  grad?<T extends TensorSpec>(
    f: ApplyOp<T>,
    dy: readonly (T | undefined)[],
    saved: Readonly<Record<string, T | undefined>>,
    params: P,
    inputs: GradientInputs<T>,
  ): Gradients<T>;
  /** Arguments in C order. `scratch` is an address, 0 when the op has none. */
  arguments(
    outputs: readonly PlacedSpec[],
    inputs: readonly PlacedSpec[],
    params: P,
    scratch: { readonly address: number; readonly bytes: number },
  ): readonly number[];
}

export function hasBackend(op: Pick<Op, "backends">, backend: BackendName): boolean {
  return op.backends === undefined || op.backends.includes(backend);
}
