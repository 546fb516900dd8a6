import { checkStatus } from "../../ffi/call.ts";
import type { EngineBackend } from "../ir/op.ts";
import { kernelLibrary } from "./library.ts";

/** What the open device reaches in plain loops; the bench compares with it. */
export type Roofline = {
  /** On a GPU the bytes read and written by a copy inside its memory. */
  readonly readGbPerSecond: number;
  /** 0 where the library does not measure it. */
  readonly int8GopPerSecond: number;
  readonly f32GflopPerSecond: number;
};

/** Measures by moving `bytes` of memory a few times and by register-only loops; needs an open device of the backend. */
export function measureRoofline(backend: EngineBackend = "cpu", bytes = 512 * 2 ** 20): Roofline {
  const { functions, lastError } = kernelLibrary(backend);
  const out = new Float64Array(new ArrayBuffer(24));
  const at = (i: number): Float64Array => out.subarray(i);
  checkStatus(functions.get("psi_measure")!(out, at(1), at(2), bytes), "psi_measure", lastError);
  return { readGbPerSecond: out[0]!, int8GopPerSecond: out[1]!, f32GflopPerSecond: out[2]! };
}

/** bf16 Tflop/s of an open CUDA device's tensor cores. */
export function measureTensorCores(): number {
  const { functions, lastError } = kernelLibrary("cuda");
  const out = new Float64Array(new ArrayBuffer(8));
  checkStatus(functions.get("psi_measure_tensor")!(out), "psi_measure_tensor", lastError);
  return out[0]!;
}
