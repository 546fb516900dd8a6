import { readFileSync } from "node:fs";
import { type KernelLibrary, loadLibrary } from "../../ffi/load.ts";
import { libraryInMemory, libraryPath } from "../../ffi/locate.ts";
import { PsionicError, unexpected } from "../core/error.ts";
import { memoryFile } from "../core/memory_file.ts";
import type { EngineBackend } from "../ir/op.ts";

const loaded = new Map<EngineBackend, KernelLibrary>();

/** A backend's kernel library, loaded at its first use in this process. */
export function kernelLibrary(backend: EngineBackend): KernelLibrary {
  let library = loaded.get(backend);
  if (!library) {
    library = open(backend);
    loaded.set(backend, library);
  }
  return library;
}

/** File of a backend's library, of which a copy is called where `useLibrary` said so. */
export function kernelLibraryPath(backend: EngineBackend): string {
  return kernelLibrary(backend).path;
}

/** From now on this thread calls the library at a path: a copy that it has to itself. Called before anything is opened. */
export function useLibrary(backend: EngineBackend, path: string): void {
  loaded.set(backend, loadLibrary(backend, path));
}

/**
 * Path of a further copy of a backend's library. A library holds one device: its thread pool, its stream. Copies share
 * nothing, so that several engines of a process compute side by side. Each is kept until the process ends.
 */
export function copyLibrary(backend: EngineBackend): string {
  const path = memoryFile(`psionic_${backend}`, readFileSync(libraryPath(backend)));
  if (path !== undefined) return path;
  throw unexpected("unsupported", "models", "Linux for several models loaded at once", process.platform);
}

function open(backend: EngineBackend): KernelLibrary {
  const path = libraryPath(backend);
  try {
    return loadLibrary(backend, path);
  } catch (error) {
    // where no library can be called, none in memory can
    if (error instanceof PsionicError && error.code === "unsupported") throw error;
    // The cache may lie on a file system that forbids execution.
    const memory = libraryInMemory(backend);
    if (memory === undefined) throw error;
    return loadLibrary(backend, memory);
  }
}
