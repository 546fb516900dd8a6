import { checkStatus } from "../../../ffi/call.ts";
import { cpuLibrary } from "./library.ts";

/** What the open threads of this machine reach in plain loops; the bench compares with it. */
export type Roofline = {
  readonly readGbPerSecond: number;
  readonly int8GopPerSecond: number;
  readonly f32GflopPerSecond: number;
};

/** Measures by reading `bytes` of memory a few times and by running register-only loops; needs an open device. */
export function measureRoofline(bytes = 512 * 2 ** 20): Roofline {
  const { functions, lastError } = cpuLibrary();
  const out = new Float64Array(3);
  const at = (i: number): Float64Array => out.subarray(i);
  checkStatus(functions.get("psi_measure")!(out, at(1), at(2), bytes), "psi_measure", lastError);
  return { readGbPerSecond: out[0]!, int8GopPerSecond: out[1]!, f32GflopPerSecond: out[2]! };
}
