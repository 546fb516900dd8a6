import type { DType } from "../core/dtype.ts";
import { unexpected } from "../core/error.ts";
import { elementCount, type Shape } from "../core/shape.ts";
import type { Packing, PlacedSpec } from "../ir/op.ts";
import type { ValueKind } from "../ir/program.ts";
import { specBytes } from "../ir/spec.ts";
import type { Device } from "./device.ts";

/**
 * A contiguous span of device memory with a dtype and a shape (slowest dimension first). Frozen; owns nothing: weights
 * belong to their model, state to whoever made it, temporaries to the innermost scope.
 */
export type Tensor = PlacedSpec & { readonly device: Device; readonly kind: ValueKind };

export function makeTensor(
  device: Device,
  kind: ValueKind,
  address: number,
  spec: { readonly dtype: DType; readonly shape: Shape; readonly packed?: Packing },
): Tensor {
  const packed = spec.packed ?? false;
  return Object.freeze({
    device,
    kind,
    address,
    dtype: spec.dtype,
    shape: Object.freeze([...spec.shape]),
    packed,
  });
}

/** Bytes of the span. */
export function tensorBytes(t: Tensor): number {
  return specBytes(t);
}

/** A view of rows `start .. start + count` of the slowest dimension; the same memory. */
export function rowsOf(t: Tensor, start: number, count: number): Tensor {
  const rows = t.shape[0] ?? 0;
  if (t.packed || start < 0 || count < 0 || start + count > rows) {
    throw unexpected(
      "invalid_argument",
      "rowsOf",
      `a range inside ${rows} unpacked rows`,
      `${start}+${count}`,
    );
  }
  const shape = [count, ...t.shape.slice(1)];
  const rowSize = rows === 0 ? 0 : specBytes(t) / rows;
  return makeTensor(t.device, t.kind, t.address + start * rowSize, { dtype: t.dtype, shape });
}

/** The same memory under another shape of as many elements. */
export function reshape(t: Tensor, shape: Shape): Tensor {
  if (t.packed || elementCount(shape) !== elementCount(t.shape)) {
    throw unexpected("invalid_argument", "reshape", `${elementCount(t.shape)} elements`, `[${shape}]`);
  }
  return makeTensor(t.device, t.kind, t.address, { dtype: t.dtype, shape });
}
