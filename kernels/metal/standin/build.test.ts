/** The C of a Metal library's tables holds what it was made from, byte for byte. */
import { dlopen, type Pointer, toArrayBuffer } from "bun:ffi";
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { metalEmbedding, standinMissing } from "../../build_metal.ts";
import { run } from "../../compile.ts";

test.skipIf(standinMissing() !== undefined)(
  "a metallib lies in the library as it is",
  async () => {
    // every byte, every pair of digits beside it, no whole line at the end
    const metallib = Uint8Array.from({ length: 5_001 }, (_, i) => (i % 3 === 0 ? 48 + (i % 10) : i / 3));
    const folder = mkdtempSync(join(tmpdir(), "psionic-metallib-"));
    try {
      const [source, library] = [join(folder, "tables.c"), join(folder, "tables.so")];
      const reader =
        "const void* where(void) { return psi_metallib; }\ndouble bytes(void) { return psi_metallib_bytes; }\n";
      await Bun.write(source, (await metalEmbedding(metallib, { objectiveC: [], kernels: [] })) + reader);
      await run(["clang-19", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", source, "-o", library]);
      const { symbols, close } = dlopen(library, {
        where: { args: [], returns: "ptr" },
        bytes: { args: [], returns: "f64" },
      });
      expect(symbols.bytes()).toBe(metallib.length);
      const stored = new Uint8Array(toArrayBuffer(symbols.where() as Pointer, 0, metallib.length + 1));
      expect(Buffer.compare(stored.slice(0, -1), metallib)).toBe(0);
      expect(stored.at(-1)).toBe(0);
      close();
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
  60_000,
);
