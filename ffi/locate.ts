import { existsSync } from "node:fs";
import { join } from "node:path";
import { embeddedFiles } from "../src/core/embedded.ts";
import { PsionicError } from "../src/core/error.ts";
import { unpack } from "../src/core/unpack.ts";

/** Path of a backend's kernel library: unpacked from the executable, or the build's output when run from source. */
export function libraryPath(backend: "cpu"): string {
  const name = `libpsionic_${backend}.so`;
  const embedded = embeddedFiles.get(name);
  if (embedded) return unpack(embedded, (bytes) => Bun.zstdDecompressSync(bytes));
  const built = join(import.meta.dir, "..", ".cache", "native", name);
  if (existsSync(built)) return built;
  throw new PsionicError(
    "file_not_found",
    `[ffi] expected the kernel library at ${built}, got no file. Build it: bun kernels/build.ts`,
    { path: built },
  );
}
