import { type KernelLibrary, loadLibrary } from "../../ffi/load.ts";
import { libraryInMemory, libraryPath } from "../../ffi/locate.ts";
import type { BackendName } from "../ir/op.ts";

const loaded = new Map<BackendName, KernelLibrary>();

/** A backend's kernel library, loaded at its first use in this process. */
export function kernelLibrary(backend: BackendName): KernelLibrary {
  let library = loaded.get(backend);
  if (!library) {
    library = open(backend);
    loaded.set(backend, library);
  }
  return library;
}

function open(backend: BackendName): KernelLibrary {
  const path = libraryPath(backend);
  try {
    return loadLibrary(backend, path);
  } catch (error) {
    // The cache may lie on a file system that forbids execution.
    const memory = libraryInMemory(backend);
    if (memory === undefined) throw error;
    return loadLibrary(backend, memory);
  }
}
