import { existsSync } from "node:fs";
import { join } from "node:path";
import { embeddedFiles } from "../src/core/embedded.ts";
import { PsionicError } from "../src/core/error.ts";
import { unpackLibrary, unpackToMemory } from "../src/core/unpack.ts";

/** Path of a backend's kernel library: unpacked from the executable, or the build's output when run from source. */
export function libraryPath(backend: "cpu"): string {
  const name = libraryName(backend);
  const embedded = embeddedFiles.get(name);
  if (embedded) return unpackLibrary(embedded);
  const built = join(import.meta.dir, "..", ".cache", "native", name);
  if (existsSync(built)) return built;
  throw new PsionicError(
    "file_not_found",
    `[ffi] expected the kernel library at ${built}, got no file. Build it: bun kernels/build.ts`,
    { path: built },
  );
}

/** The embedded library in memory, for a cache folder from which nothing may be executed; undefined where there is none. */
export function libraryInMemory(backend: "cpu"): string | undefined {
  const embedded = embeddedFiles.get(libraryName(backend));
  return embedded && unpackToMemory(embedded);
}

function libraryName(backend: "cpu"): string {
  return `libpsionic_${backend}.so`;
}
