import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { embeddedFiles } from "../src/core/embedded.ts";
import { PsionicError } from "../src/core/error.ts";
import { unpackLibrary, unpackToMemory } from "../src/core/unpack.ts";
import { version } from "../src/core/version.ts";
import type { EngineBackend } from "../src/ir/op.ts";

/** How names of libraries end here. */
const extension = process.platform === "darwin" ? "dylib" : "so";

/** The environment variable that names a CUDA library to load instead of the one that would be found. */
export const cudaLibraryVariable = "PSIONIC_CUDA_LIBRARY";

/** Variables that name a library to load instead of the one that would be found. */
const variables: Readonly<Partial<Record<EngineBackend, string>>> = {
  cuda: cudaLibraryVariable,
  metal: "PSIONIC_METAL_LIBRARY",
  "metal-standin": "PSIONIC_METAL_STANDIN_LIBRARY",
};

const builds: Readonly<Record<EngineBackend, string>> = {
  cpu: "bun kernels/build.ts",
  cuda: "bun kernels/build_cuda.ts",
  metal: "bun build.ts --native, on a Mac",
  "metal-standin": "bun kernels/build_metal.ts standin",
};

/**
 * Path of a backend's kernel library: the one that was asked for, unpacked from the executable, beside the executable,
 * or the build's output when run from source. Throws `file_not_found` with the place.
 */
export function libraryPath(backend: EngineBackend): string {
  const variable = variables[backend];
  const asked = variable && process.env[variable];
  if (asked) return existing(asked, backend);
  const name = libraryName(backend);
  const embedded = embeddedFiles.get(name);
  if (embedded) return unpackLibrary(embedded);
  const beside = join(dirname(process.execPath), `psionic-${backend}-${version}.${extension}`);
  const built = join(import.meta.dir, "..", ".cache", "native", name);
  return existing(embeddedFiles.size > 0 ? beside : built, backend);
}

/** The embedded library in memory, for a cache folder from which nothing may be executed; undefined where there is none. */
export function libraryInMemory(backend: EngineBackend): string | undefined {
  const embedded = embeddedFiles.get(libraryName(backend));
  return embedded && unpackToMemory(embedded);
}

function existing(place: string, backend: EngineBackend): string {
  if (existsSync(place)) return place;
  const variable = variables[backend];
  const named = variable ? `Put it there, or name one with ${variable}` : "Put it there";
  const fix = embeddedFiles.size > 0 ? named : `Build it: ${builds[backend]}`;
  throw new PsionicError(
    "file_not_found",
    `[ffi] expected the ${backend} kernel library at ${place}, got no file. ${fix}`,
    { path: place },
  );
}

function libraryName(backend: EngineBackend): string {
  return `libpsionic_${backend}.${extension}`;
}
