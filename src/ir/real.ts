import { dtypes } from "../core/dtype.ts";
import { unexpected } from "../core/error.ts";
import { elementCount, type Shape } from "../core/shape.ts";
import type { Op, TensorSpec } from "./op.ts";
import { describe, expectSpec, specBytes, totalBytes } from "./spec.ts";

/** Ops of training take f32 everywhere, f64 on the CPU, and bf16 besides f32 where `Backend.halfTensors` says so. */
export const trainingBackends = ["cpu", "cuda", "metal"] as const;

/**
 * Asserts a float tensor that training computes with: f32 or bf16, or f64 where gradients are checked; f64 when `like` is
 * and only then. A -1 in `shape` takes any size.
 */
export function expectReal(
  where: string,
  spec: TensorSpec | undefined,
  shape: Shape,
  like?: TensorSpec,
): TensorSpec {
  if (spec && spec.dtype !== "f32" && spec.dtype !== "f64" && spec.dtype !== "bf16") {
    throw unexpected("invalid_argument", where, "f32, bf16 or f64", describe(spec));
  }
  const other = like && spec && (like.dtype === "f64") !== (spec.dtype === "f64");
  return expectSpec(where, spec, other ? like.dtype : (spec?.dtype ?? "f32"), shape);
}

/** What sums, losses and statistics of a tensor are in. */
export const wideType = (spec: TensorSpec): "f32" | "f64" => (spec.dtype === "f64" ? "f64" : "f32");

const mixed = 256;

/**
 * Type code of a call on these tensors, in the prototype's order of pointers: f32's or f64's, or 256 with a bit for each
 * pointer that is bf16.
 */
export function realCode(...pointers: readonly (TensorSpec | undefined)[]): number {
  let halves = 0;
  for (const [i, t] of pointers.entries()) if (t?.dtype === "bf16") halves |= 1 << i;
  if (halves !== 0) return mixed + halves;
  return dtypes[pointers.some((t) => t?.dtype === "f64") ? "f64" : "f32"].id;
}

export function plainSpec(dtype: TensorSpec["dtype"], ...shape: number[]): TensorSpec {
  return { dtype, shape, packed: false };
}

/**
 * The cost of an op with so many operations for each of its result's elements: what it is given passes once, of a table as much
 * as the result has, and what it makes, with the inputs that it changes in place besides.
 */
export function elementWise<P>(flopsPerElement: number, changed = 0): Op<P>["cost"] {
  return (inputs, _params, outputs) => {
    const n = elementCount(outputs[0]!.shape);
    const read = (t: TensorSpec | undefined): number =>
      t ? specBytes(t) * Math.min(1, n / Math.max(1, elementCount(t.shape))) : 0;
    const bytes = inputs.reduce((sum, t) => sum + read(t), 0) + totalBytes(...outputs);
    return { flops: flopsPerElement * n, bytes: bytes + changed * specBytes(outputs[0]!) };
  };
}
