/**
 * The CUDA library for tests above the kernels: the one PSIONIC_CUDA_LIBRARY names, or the one whose kernels run on fibers
 * of the CPU. It is copied, since the kernels' own tests may have the original open in this process.
 */
import { copyFileSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { buildCudaStandin } from "../../../kernels/build_cuda.ts";
import { kernelLibrary } from "../library.ts";

const variable = "PSIONIC_CUDA_LIBRARY";

/** Path of the copy; undefined, with the reason on stderr, where there is no compiler for it. */
export const cudaLibrary: string | undefined = await place();

/** Whether the kernels run on fibers, some thousand times slower than on a device: few tokens then. */
export const onFibers: boolean = cudaLibrary?.includes("standin") ?? true;

async function place(): Promise<string | undefined> {
  const asked = process.env[variable];
  if (!asked && !Bun.which("g++")) {
    console.warn("skipping tests of the CUDA backend: there is no g++ to build its kernels for the CPU");
    return undefined;
  }
  const path = asked ?? (await buildCudaStandin(join(import.meta.dir, "../../../.cache/native")));
  const copy = join(mkdtempSync(join(tmpdir(), "psionic-cuda-")), basename(path));
  copyFileSync(path, copy);
  await withCudaLibrary(() => kernelLibrary("cuda"), copy);
  return copy;
}

/** Runs `body` with the library's name in the environment, as the engine's worker finds it, and not in that of other tests. */
export async function withCudaLibrary<T>(body: () => T | Promise<T>, path = cudaLibrary): Promise<T> {
  const before = process.env[variable];
  process.env[variable] = path;
  try {
    return await body();
  } finally {
    if (before === undefined) delete process.env[variable];
    else process.env[variable] = before;
  }
}
