import { checkStatus } from "../../../ffi/call.ts";
import { type DType, dtypes } from "../../core/dtype.ts";
import { kernelLibrary } from "../library.ts";

const known = new Map<string, number>();

/** Bytes of a matrix in the CUDA library's layout; needs the library and no device. */
export function cudaPackedBytes(dtype: DType, rows: number, columns: number): number {
  const key = `${dtype} ${rows} ${columns}`;
  let bytes = known.get(key);
  if (bytes === undefined) {
    const { functions, lastError } = kernelLibrary("cuda");
    const out = new Float64Array(new ArrayBuffer(8));
    const status = functions.get("psi_packed_bytes")!(out, rows, columns, dtypes[dtype].id);
    checkStatus(status, "psi_packed_bytes", lastError);
    bytes = out[0]!;
    known.set(key, bytes);
  }
  return bytes;
}
