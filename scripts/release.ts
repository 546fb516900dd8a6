/**
 * Makes the files of a release in dist/release: psionic-linux-x64, psionic-linux-arm64, psionic-darwin-arm64, and their
 * digests in SHA256SUMS. What can be checked on this machine is checked, and what was is printed.
 * Usage: bun run release [--only TARGET,...] [--cuda embedded|beside|none] [--out FOLDER]
 * --cuda says where the CUDA library of psionic-linux-x64 goes: into it, beside it as psionic-cuda-VERSION.so, or nowhere
 * (the default where there is no nvcc).   Output: each file with size, seconds, digest and findings. Exits 1 on a failure.
 */
import { renameSync, rmSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { buildExecutable, type Cuda, cudaBesideName, cudaPlaces } from "../build.ts";
import { releaseCode } from "../kernels/build_cuda.ts";
import { type Target, targets } from "../kernels/toolchain.ts";
import { sha256 } from "../src/core/digest.ts";
import { checkExecutable } from "./release/checks.ts";

async function digest(file: string): Promise<string> {
  return sha256(await Bun.file(file).bytes());
}

/** Builds and checks one target's executable; its files. */
async function make(target: Target, folder: string, cuda: Cuda): Promise<string[]> {
  const own: Cuda = target === "linux-x64" ? cuda : "none";
  const file = join(folder, `psionic-${target}`);
  const files = [file, ...(own === "beside" ? [join(folder, cudaBesideName)] : [])];
  const start = performance.now();
  await buildExecutable({ target, outfile: file, cuda: own });
  const built = performance.now();
  const findings = await checkExecutable(target, file, own !== "none");
  const checked = performance.now();
  const seconds = (from: number, to: number): string => ((to - from) / 1000).toFixed(0);
  for (const made of files) {
    console.log(`${basename(made)}  ${(Bun.file(made).size / 1e6).toFixed(1)} MB  ${await digest(made)}`);
  }
  console.log(`  built in ${seconds(start, built)} s, checked in ${seconds(built, checked)} s`);
  if (target === "linux-x64")
    console.log(`  CUDA library: ${own}${own === "none" ? "" : `, ${releaseCode()}`}`);
  for (const line of findings) console.log(`  ${line}`);
  return files;
}

/** The sums of everything in the folder that a release may hold, in the form that `sha256sum --check` reads. */
async function writeSums(folder: string): Promise<void> {
  const names = [...targets.map((target) => `psionic-${target}`), cudaBesideName];
  const lines: string[] = [];
  for (const name of names.sort()) {
    const file = join(folder, name);
    if (await Bun.file(file).exists()) lines.push(`${await digest(file)}  ${name}\n`);
  }
  const sums = join(folder, "SHA256SUMS");
  await Bun.write(`${sums}.${process.pid}`, lines.join(""));
  renameSync(`${sums}.${process.pid}`, sums);
  console.log(sums);
}

const { values } = parseArgs({
  options: {
    only: { type: "string", default: targets.join(",") },
    cuda: { type: "string", default: Bun.which("nvcc") ? "embedded" : "none" },
    out: { type: "string", default: join(import.meta.dir, "..", "dist", "release") },
  },
});
const cuda = cudaPlaces.find((name) => name === values.cuda);
if (!cuda) throw new Error(`[release] expected --cuda ${cudaPlaces.join(", ")}, got ${values.cuda}`);
const wanted = values.only.split(",").map((name) => {
  const target = targets.find((t) => t === name);
  if (!target) throw new Error(`[release] expected --only ${targets.join(", ")}, got ${name}`);
  return target;
});
const folder = resolve(values.out);
// a library that an earlier release put beside its executable is not this one's
if (wanted.includes("linux-x64") && cuda !== "beside") rmSync(join(folder, cudaBesideName), { force: true });
let failed = false;
for (const target of wanted) {
  try {
    await make(target, folder, cuda);
  } catch (error) {
    failed = true;
    rmSync(join(folder, `psionic-${target}`), { force: true }); // what failed its check is no release
    console.error(`${target}: ${error instanceof Error ? error.message : String(error)}`);
  }
}
await writeSums(folder);
process.exit(failed ? 1 : 0);
