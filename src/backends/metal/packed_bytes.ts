import { type DType, rowBytes } from "../../core/dtype.ts";

/** Bytes of a matrix in Metal's layout, which is the file's. */
export function filePackedBytes(dtype: DType, rows: number, columns: number): number {
  return rows * rowBytes(dtype, columns);
}
