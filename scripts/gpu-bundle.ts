/**
 * Makes .gpu/, which lets a bare machine with a card (no Bun, no packages, no network) run scripts/gpu-check.sh in a copy
 * of this checkout: Bun, both kernel libraries and the packages that the program imports, as few compressed bytes.
 * Usage: bun scripts/gpu-bundle.ts [--without-cuda]   On the other machine: bash .gpu/run.sh [SECTION]... [OPTION]...
 * Output: the sizes of what the folder holds. --without-cuda leaves the CUDA library to be built there.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { buildCpuLibrary } from "../kernels/build.ts";
import { buildCudaLibrary } from "../kernels/build_cuda.ts";
import { sha256 } from "../src/core/digest.ts";

const root = join(import.meta.dir, "..");
const cache = join(root, ".cache");
const target = join(root, ".gpu");
const runScript = `#!/usr/bin/env bash
# Unpacks what scripts/gpu-bundle.ts packed, once, and runs scripts/gpu-check.sh with it.
# Usage: bash .gpu/run.sh [SECTION]... [OPTION]...   With --only-unpack nothing is run.
set -euo pipefail
cd "$(dirname "$0")/.."
unpack() { # FROM TO
  [ "$2" -nt "$1" ] && return
  mkdir -p "$(dirname "$2")"
  if command -v xz >/dev/null; then xz -dc "$1" >"$2.part"
  else python3 -c 'import lzma,shutil,sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2], "wb"))' "$1" "$2.part"
  fi
  chmod +x "$2.part"
  mv "$2.part" "$2"
}
rm -f .tools/bun
unpack .gpu/bun.xz .tools/bun &
for library in .gpu/lib*.so.xz; do
  name="$(basename "$library" .xz)"
  unpack "$library" ".cache/native/$name" &
done
wait
[ -e node_modules ] || ln -s .gpu/node_modules node_modules
export GPU_CHECK_READY=1 PSIONIC_CPU_LIBRARY="$PWD/.cache/native/libpsionic_cpu.so"
[ -e .cache/native/libpsionic_cuda.so ] || .tools/bun kernels/build_cuda.ts development >&2
export PSIONIC_CUDA_LIBRARY="$PWD/.cache/native/libpsionic_cuda.so"
[ "\${1:-}" = --only-unpack ] || exec bash scripts/gpu-check.sh "$@"
`;

/** Copies a file compressed, from the cache where its content was compressed before. */
async function pack(path: string, name: string): Promise<void> {
  const digest = sha256(await Bun.file(path).bytes()).slice(0, 16);
  const stored = join(cache, "xz", `${name}.${digest}.xz`);
  if (!existsSync(stored)) {
    mkdirSync(join(cache, "xz"), { recursive: true });
    const aside = `${stored}.${process.pid}`;
    const child = Bun.spawn(["xz", "--x86", "--lzma2=preset=9,dict=128MiB", "-c", path], {
      stdout: Bun.file(aside),
      stderr: "inherit",
    });
    if ((await child.exited) !== 0) throw new Error(`[gpu-bundle] xz failed on ${path}`);
    renameSync(aside, stored);
  }
  copyFileSync(stored, join(target, `${name}.xz`));
}

/** What src/ imports when it runs from source; types leave nothing to import, and nothing is embedded then. */
async function packages(): Promise<string[]> {
  const names = new Set<string>();
  for await (const file of new Bun.Glob("**/*.ts").scan(join(root, "src"))) {
    if (file.endsWith(".test.ts") || file.includes("testing/")) continue;
    const text = await Bun.file(join(root, "src", file)).text();
    for (const [, name] of text.matchAll(/^(?:import|export|\})[^;]*?from "(@?[a-z][^":]*)"/gm))
      names.add(name!);
  }
  names.delete("zstd-napi");
  return [...names].sort();
}

/** A package as one file; CommonJS stays what it is, since its names are known only when it runs. */
async function bundlePackage(name: string): Promise<void> {
  const { type } = JSON.parse(readFileSync(join(root, "node_modules", name, "package.json"), "utf8")) as {
    type?: string;
  };
  const entry = Bun.resolveSync(name, root);
  const isModule = type === "module" || entry.endsWith(".mjs");
  const folder = join(target, "node_modules", name);
  const result = await Bun.build({
    ...{ entrypoints: [entry], target: "bun", format: isModule ? "esm" : "cjs", minify: true },
    ...{ outdir: folder, naming: isModule ? "index.mjs" : "index.cjs" },
  });
  if (!result.success) throw new AggregateError(result.logs, `[gpu-bundle] expected a bundle of ${name}`);
  const main = isModule ? "index.mjs" : "index.cjs";
  await Bun.write(join(folder, "package.json"), `${JSON.stringify({ name, main })}\n`);
}

function options() {
  try {
    return parseArgs({ options: { "without-cuda": { type: "boolean", default: false } } }).values;
  } catch (error) {
    console.error(`[gpu-bundle] ${error instanceof Error ? error.message : error}`);
    process.exit(1);
  }
}

const values = options();
rmSync(target, { recursive: true, force: true });
mkdirSync(target);
const native = join(cache, "native");
await pack(process.execPath, "bun");
const libraries = [await buildCpuLibrary(native)];
if (!values["without-cuda"]) libraries.push(await buildCudaLibrary(native, "development"));
for (const library of libraries) await pack(library, basename(library));
for (const name of await packages()) await bundlePackage(name);
await Bun.write(join(target, "run.sh"), runScript);
for await (const file of new Bun.Glob("**/*").scan(target)) {
  console.log(`${(statSync(join(target, file)).size / 1e6).toFixed(2).padStart(8)} MB  ${file}`);
}
