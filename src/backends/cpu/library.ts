import { type KernelLibrary, loadLibrary } from "../../../ffi/load.ts";
import { libraryPath } from "../../../ffi/locate.ts";

let loaded: KernelLibrary | undefined;

/** The CPU kernel library of this process, loaded at first use. */
export function cpuLibrary(): KernelLibrary {
  loaded ??= loadLibrary(libraryPath("cpu"));
  return loaded;
}
