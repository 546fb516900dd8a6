import { unexpected } from "../core/error.ts";
import { elementCount, type Shape } from "../core/shape.ts";
import type { Op, TensorSpec } from "./op.ts";
import { describe, expectSpec } from "./spec.ts";

/** Backends whose libraries have the ops of training. */
export const trainingBackends = ["cpu", "metal"] as const;

/**
 * Asserts a float tensor that training computes with: f32, or f64 where gradients are checked; of `like`'s dtype when that
 * is given. A -1 in `shape` takes any size.
 */
export function expectReal(
  where: string,
  spec: TensorSpec | undefined,
  shape: Shape,
  like?: TensorSpec,
): TensorSpec {
  if (spec && spec.dtype !== "f32" && spec.dtype !== "f64") {
    throw unexpected("invalid_argument", where, "f32 or f64", describe(spec));
  }
  return expectSpec(where, spec, like?.dtype ?? spec?.dtype ?? "f32", shape);
}

export function plainSpec(dtype: TensorSpec["dtype"], ...shape: number[]): TensorSpec {
  return { dtype, shape, packed: false };
}

/** All elements of an element-wise op: twice read, once written, for its cost. */
export function elementWise<P>(flopsPerElement: number): Op<P>["cost"] {
  return (inputs, _params, outputs) => {
    const n = elementCount(outputs[0]!.shape);
    const bytes = n * (outputs[0]!.dtype === "f64" ? 8 : 4);
    return { flops: flopsPerElement * n, bytes: bytes * (inputs.filter(Boolean).length + outputs.length) };
  };
}
