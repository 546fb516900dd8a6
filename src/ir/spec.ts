import { type DType, dtypes, rowBytes } from "../core/dtype.ts";
import { unexpected } from "../core/error.ts";
import { elementCount, type Shape } from "../core/shape.ts";
import type { TensorSpec } from "./op.ts";

/** Rows that are interleaved in a packed weight (kernels/common/panel.h). */
export const panelRows = 16;

/** Type code of the C ABI: ggml's id, plus 256 for a packed weight (PSI_PACKED) and 512 for activations of 16 bits (PSI_A16). */
export function dtypeCode(spec: TensorSpec): number {
  return dtypes[spec.dtype].id + (spec.packed ? 256 : 0) + (spec.packed === "a16" ? 512 : 0);
}

/**
 * Bytes of one matrix [rows, columns] in the CPU's packed layout: panels of 16 rows, each rounded up to 64 bytes. Other
 * backends pad a little differently; what they allocate they ask their own library.
 */
export function packedBytes(dtype: DType, rows: number, columns: number): number {
  const panel = Math.ceil((panelRows * rowBytes(dtype, columns)) / 64) * 64;
  return Math.ceil(rows / panelRows) * panel;
}

/** Bytes of a tensor. A packed tensor of rank 3 `[experts, rows, columns]` is that many packed matrices. */
export function specBytes(spec: TensorSpec): number {
  const columns = spec.shape.at(-1) ?? 1;
  if (!spec.packed) return elementCount(spec.shape.slice(0, -1)) * rowBytes(spec.dtype, columns);
  return matrixCount(spec.shape) * packedBytes(spec.dtype, spec.shape.at(-2) ?? 1, columns);
}

/** Matrices in a packed tensor: 1, or the experts of rank 3. */
export function matrixCount(shape: Shape): number {
  return elementCount(shape.slice(0, -2));
}

export function f32Spec(...shape: number[]): TensorSpec {
  return { dtype: "f32", shape, packed: false };
}

export function i32Spec(...shape: number[]): TensorSpec {
  return { dtype: "i32", shape, packed: false };
}

export function describe(spec: TensorSpec | undefined): string {
  return spec
    ? `${spec.dtype}${spec.packed ? " packed" : ""}${spec.packed === "a16" ? " a16" : ""} [${spec.shape.join(", ")}]`
    : "nothing";
}

/** Asserts dtype and shape; a -1 in `shape` takes any size. */
export function expectSpec(
  where: string,
  spec: TensorSpec | undefined,
  dtype: DType,
  shape: Shape,
): TensorSpec {
  const fits =
    spec !== undefined &&
    spec.dtype === dtype &&
    !spec.packed &&
    spec.shape.length === shape.length &&
    shape.every((d, i) => d < 0 || d === spec.shape[i]);
  if (!fits) {
    const wanted = shape.map((d) => (d < 0 ? "*" : d)).join(", ");
    throw unexpected("invalid_argument", where, `${dtype} [${wanted}]`, describe(spec));
  }
  return spec;
}

export function totalBytes(...specs: readonly (TensorSpec | undefined)[]): number {
  let sum = 0;
  for (const spec of specs) if (spec) sum += specBytes(spec);
  return sum;
}
