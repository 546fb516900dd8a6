/** Two processes that train together, over the stand-in of NCCL where there are no devices. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cudaLibrary, onFibers } from "../testing/cuda_library.ts";

setDefaultTimeout(120_000);
const root = join(import.meta.dir, "../../..");

async function standin(...more: string[]): Promise<string> {
  const library = join(mkdtempSync(join(tmpdir(), "psionic-nccl-")), "libnccl_standin.so");
  const words = ["g++", "-O2", "-std=c++17", "-shared", "-fPIC", "-pthread", ...more];
  const built = Bun.spawn([...words, join(root, "kernels/standin/nccl.cpp"), "-o", library]);
  expect(await built.exited).toBe(0);
  return library;
}

async function pair(library: string) {
  const small = [
    "--tiny",
    "--sequences",
    "1",
    "--length",
    "8",
    "--accumulation",
    "2",
    "--steps",
    "2",
    "--warm",
    "1",
  ];
  const child = Bun.spawn([process.execPath, join(root, "scripts/gpu/train_pair.ts"), ...small], {
    env: { ...process.env, PSIONIC_CUDA_LIBRARY: cudaLibrary, PSIONIC_NCCL_LIBRARY: library },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { out, err, code: await child.exited };
}

test.skipIf(!cudaLibrary || !onFibers)(
  "two devices give the losses of one at the same global batch",
  async () => {
    const { out, err, code } = await pair(await standin());
    expect(err).toBe("");
    expect(code).toBe(0);
    const apart = Number(/losses at most (\S+) apart/.exec(out)![1]);
    expect(apart).toBeLessThan(1e-4);
  },
);

test.skipIf(!cudaLibrary || !onFibers)("replicas that end with other parameters are an error", async () => {
  const { err, code } = await pair(await standin("-DUNEQUAL_SUMS"));
  expect(code).toBe(1);
  expect(err).toContain("expected replicas of one digest");
});

test.skipIf(!cudaLibrary || !onFibers)("without NCCL the error names what is missing", async () => {
  const { err, code } = await pair("/nowhere/libnccl.so");
  expect(code).not.toBe(0);
  expect(err).toContain("expected NCCL (libnccl.so.2) to load");
});
