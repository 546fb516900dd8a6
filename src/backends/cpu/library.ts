import { type KernelLibrary, loadLibrary } from "../../../ffi/load.ts";
import { libraryInMemory, libraryPath } from "../../../ffi/locate.ts";

let loaded: KernelLibrary | undefined;

/** The CPU kernel library of this process, loaded at first use. */
export function cpuLibrary(): KernelLibrary {
  loaded ??= open();
  return loaded;
}

function open(): KernelLibrary {
  const path = libraryPath("cpu");
  try {
    return loadLibrary(path);
  } catch (error) {
    // The cache may lie on a file system that forbids execution.
    const memory = libraryInMemory("cpu");
    if (memory === undefined) throw error;
    return loadLibrary(memory);
  }
}
