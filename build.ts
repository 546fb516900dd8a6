/**
 * Builds dist/psionic: the kernel libraries, the zstd binding and the default model, packed with the program into one
 * executable. Usage: bun build.ts [--outfile PATH] [--cuda embedded|beside] | --native     Output: what was built.
 * --cuda compiles libpsionic_cuda.so for all architectures (minutes; needs nvcc) and puts it into the executable, or
 * beside it as psionic-cuda-VERSION.so. --native stops after the native code, which is what running from source needs.
 */
import { copyFileSync, mkdirSync, renameSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import type { BunPlugin } from "bun";
import { buildCpuLibrary } from "./kernels/build.ts";
import { buildCudaLibrary } from "./kernels/build_cuda.ts";
import { buildZstdBinding } from "./scripts/zstd-binding.ts";
import { sha256 } from "./src/core/digest.ts";
import type { EmbeddedFile } from "./src/core/embedded.ts";
import { version } from "./src/core/version.ts";
import type { BakedSource } from "./src/machine/baked.ts";
import { bundlePage, type Page } from "./src/serve/page/bundle.ts";

const root = import.meta.dir;
const cache = join(root, ".cache");

/** Native code into .cache/native and zstd-napi's own folder: what running from source and the tests need. */
async function buildNative(): Promise<{ readonly library: string; readonly binding: string }> {
  const [library, binding] = await Promise.all([buildCpuLibrary(join(cache, "native")), buildZstdBinding()]);
  return { library, binding };
}

/** A compressed copy with zstd's content checksum, made once per content. */
async function compressed(path: string): Promise<EmbeddedFile> {
  const { compress } = await import("zstd-napi");
  const bytes = await Bun.file(path).bytes();
  const digest = sha256(bytes);
  const stored = join(cache, "embedded", `${basename(path)}.${digest.slice(0, 16)}.zst`);
  if (!(await Bun.file(stored).exists())) {
    mkdirSync(dirname(stored), { recursive: true });
    const aside = `${stored}.${process.pid}`;
    await Bun.write(aside, compress(bytes, { compressionLevel: 19, checksumFlag: true }));
    renameSync(aside, stored);
  }
  return { name: basename(path), path: stored, sha256: digest, compression: "zstd" };
}

/** The binding itself unpacks everything else, so it is stored as it is. */
async function plain(name: string, path: string): Promise<EmbeddedFile> {
  return { name, path, sha256: sha256(await Bun.file(path).bytes()), compression: "none" };
}

const bindingName = "zstd_binding.node";

/**
 * Puts the real table in the place of src/core/embedded.ts, the finished page in that of src/serve/page/bundled.ts, the
 * source's revision in that of src/machine/baked.ts, and the unpacked binding in that of zstd-napi's loader.
 */
function embed(files: readonly EmbeddedFile[], page: Page, source: BakedSource): BunPlugin {
  const imports = files.map(
    (f, i) => `import path${i} from ${JSON.stringify(f.path)} with { type: "file" };`,
  );
  const entries = files.map(({ name, sha256: digest, compression }, i) => {
    const fields = `name: ${JSON.stringify(name)}, path: path${i}, sha256: "${digest}", compression: "${compression}"`;
    return `[${JSON.stringify(name)}, { ${fields} }],`;
  });
  const table = [...imports, "export const embeddedFiles = new Map([", ...entries, "]);"].join("\n");
  const core = (file: string) => JSON.stringify(join(root, "src", "core", file));
  const loader = [
    `const { embeddedFiles } = require(${core("embedded.ts")});`,
    `const { unpackLibrary, unpackToMemory } = require(${core("unpack.ts")});`,
    "const loaded = { exports: {} };",
    `const file = embeddedFiles.get("${bindingName}");`,
    "try {",
    "  process.dlopen(loaded, unpackLibrary(file));",
    "} catch (error) {",
    "  const memory = unpackToMemory(file);",
    "  if (memory === undefined) throw error;",
    "  process.dlopen(loaded, memory);",
    "}",
    "module.exports = loaded.exports;",
  ].join("\n");
  const bundled = `const page = ${JSON.stringify(page)};\nexport const bundledPage = async () => page;`;
  return {
    name: "embedded files",
    setup(build) {
      build.onLoad({ filter: /src[\\/]serve[\\/]page[\\/]bundled\.ts$/ }, () => ({
        loader: "ts",
        contents: bundled,
      }));
      build.onLoad({ filter: /src[\\/]machine[\\/]baked\.ts$/ }, () => ({
        loader: "ts",
        contents: `export const bakedSource = ${JSON.stringify(source)};`,
      }));
      build.onLoad({ filter: /src[\\/]core[\\/]embedded\.ts$/ }, () => ({ loader: "ts", contents: table }));
      build.onLoad({ filter: /zstd-napi[\\/]binding\.js$/ }, () => ({ loader: "js", contents: loader }));
    },
  };
}

/** The source as manifests are admitted by it; zeros where there is no repository to ask. */
function sourceOfBuild(): BakedSource {
  const git = (...words: string[]): string | undefined => {
    try {
      const { exitCode, stdout } = Bun.spawnSync(["git", "-C", root, ...words], { stderr: "ignore" });
      return exitCode === 0 ? stdout.toString().trim() : undefined;
    } catch {
      return undefined; // no git on this machine
    }
  };
  const commit = git("rev-parse", "--verify", "HEAD") ?? "0".repeat(40);
  const clean = (git("status", "--porcelain") ?? "") === "";
  return { commit, dirtyStatus: clean ? null : sha256(git("status", "--short", "--branch") ?? "") };
}

type Cuda = "none" | "embedded" | "beside";

/** The CUDA library where it was asked to be; the files to embed. */
async function placeCuda(cuda: Cuda, outfile: string): Promise<EmbeddedFile[]> {
  if (cuda === "none") return [];
  const library = await buildCudaLibrary(join(cache, "release"), "release");
  if (cuda === "embedded") return [await compressed(library)];
  const beside = join(dirname(outfile), `psionic-cuda-${version}.so`);
  copyFileSync(library, `${beside}.${process.pid}`);
  renameSync(`${beside}.${process.pid}`, beside);
  console.log(beside);
  return [];
}

async function buildExecutable(outfile: string, cuda: Cuda): Promise<void> {
  const { library, binding } = await buildNative();
  mkdirSync(dirname(outfile), { recursive: true });
  const files = [
    await plain(bindingName, binding),
    await compressed(library),
    await compressed(join(root, "fixtures", "docs-oss-13m-mxfp4.gguf")),
    ...(await placeCuda(cuda, outfile)),
  ];
  const result = await Bun.build({
    entrypoints: [
      join(root, "src", "main.ts"),
      join(root, "src", "serve", "engine", "worker.ts"),
      join(root, "src", "serve", "prefix_store", "writer.ts"),
      join(root, "src", "data", "loader", "worker.ts"),
    ],
    root: join(root, "src"),
    target: "bun",
    format: "esm",
    minify: true,
    bytecode: true,
    splitting: true,
    plugins: [embed(files, await bundlePage(), sourceOfBuild())],
    compile: { outfile, autoloadDotenv: false, autoloadBunfig: false },
  });
  if (!result.success) throw new AggregateError(result.logs, "[build] expected a bundle, got errors");
}

const { values } = parseArgs({
  options: {
    native: { type: "boolean", default: false },
    outfile: { type: "string", default: join(root, "dist", "psionic") },
    cuda: { type: "string", default: "none" },
  },
});
if (!["none", "embedded", "beside"].includes(values.cuda)) {
  throw new Error(`[build] expected --cuda embedded, beside or none, got ${values.cuda}`);
}
if (values.native) console.log((await buildNative()).library);
else {
  const outfile = resolve(values.outfile);
  await buildExecutable(outfile, values.cuda as Cuda);
  console.log(`${outfile}  ${(Bun.file(outfile).size / 1e6).toFixed(1)} MB`);
}
