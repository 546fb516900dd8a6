import type { KernelLibrary } from "../../../ffi/load.ts";
import { kernelLibrary } from "../library.ts";

/** The CPU kernel library of this process, loaded at first use. */
export function cpuLibrary(): KernelLibrary {
  return kernelLibrary("cpu");
}
