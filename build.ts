/**
 * Builds dist/psionic: the kernel libraries, the zstd binding and the default model, packed with the program into one
 * executable. Usage: bun build.ts [--outfile PATH] [--target TARGET] [--cuda embedded|beside] | --native
 * Output: what was built. --target is linux-x64, linux-arm64 or darwin-arm64, else this machine. --cuda compiles
 * libpsionic_cuda.so for all architectures (minutes; needs nvcc) and puts it into the executable, or beside it as
 * psionic-cuda-VERSION.so. --native stops after the native code, which is what running from source needs.
 */
import { copyFileSync, mkdirSync, renameSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import type { BunPlugin } from "bun";
import { buildCpuLibrary } from "./kernels/build.ts";
import { buildCudaLibrary } from "./kernels/build_cuda.ts";
import { buildMetalLibrary } from "./kernels/build_metal_library.ts";
import { run } from "./kernels/compile.ts";
import { nativeTarget, type Target, targets } from "./kernels/toolchain.ts";
import { buildZstdBinding, crossZstdBinding } from "./scripts/zstd-binding.ts";
import { sha256 } from "./src/core/digest.ts";
import type { EmbeddedFile } from "./src/core/embedded.ts";
import { version } from "./src/core/version.ts";
import type { BakedSource } from "./src/machine/baked.ts";
import { bundlePage, type Page } from "./src/serve/page/bundle.ts";

const root = import.meta.dir;
const cache = join(root, ".cache");

type Native = {
  /** Kernel libraries that are always in the executable. */
  readonly libraries: readonly string[];
  /** zstd-napi's binding; undefined where none can be compiled for the target. */
  readonly binding: string | undefined;
};

/**
 * Native code into .cache/native, and zstd-napi's own folder: what running from source and the tests need. For another
 * machine than this one, into the folder of that target.
 */
async function buildNative(target: Target): Promise<Native> {
  const native = nativeTarget();
  const folder = join(cache, target === native ? "native" : target);
  // this machine's binding compresses what is embedded, whatever the target
  const own = buildZstdBinding();
  const cpu = buildCpuLibrary(folder, { target });
  const metal = target === "darwin-arm64" ? [await buildMetal(folder)] : [];
  const binding = target === native ? own : crossBinding(target);
  const [built] = await Promise.all([binding, own]);
  return { libraries: [await cpu, ...metal], binding: built };
}

/** The Metal library; prints whether the device will compile its kernels. */
async function buildMetal(folder: string): Promise<string> {
  const { path, kernels: how } = await buildMetalLibrary(folder);
  console.log(`${basename(path)}  kernels: ${how}`);
  return path;
}

async function crossBinding(target: Target): Promise<string | undefined> {
  if (target === "linux-arm64") return crossZstdBinding("aarch64-linux-gnu-g++");
  if (target === "linux-x64") return crossZstdBinding("x86_64-linux-gnu-g++");
  return undefined; // C++ with its standard library does not compile for macOS without Apple's SDK
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

/** What stands in zstd-napi's place where it has no binding. */
const ownZstd = `module.exports = require(${JSON.stringify(join(root, "src/core/own_zstd.ts"))});`;

/**
 * Puts the real table in the place of src/core/embedded.ts, the finished page in that of src/serve/page/bundled.ts, the
 * source's revision in that of src/machine/baked.ts, and the unpacked binding in that of zstd-napi's loader.
 */
function embed(files: readonly EmbeddedFile[], page: Page, source: BakedSource): BunPlugin {
  const bound = files.some(({ name }) => name === bindingName);
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
      if (bound) {
        build.onLoad({ filter: /zstd-napi[\\/]binding\.js$/ }, () => ({ loader: "js", contents: loader }));
      } else {
        build.onLoad({ filter: /zstd-napi[\\/]dist[\\/]index\.js$/ }, () => ({
          loader: "js",
          contents: ownZstd,
        }));
      }
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

/** Where the CUDA library goes: nowhere, into the executable, or beside it. */
export type Cuda = "none" | "embedded" | "beside";
export const cudaPlaces: readonly Cuda[] = ["none", "embedded", "beside"];

/** Name of the CUDA library that a small executable finds beside itself. */
export const cudaBesideName = `psionic-cuda-${version}.so`;

/** The CUDA library where it was asked to be; the files to embed. */
async function placeCuda(cuda: Cuda, outfile: string): Promise<EmbeddedFile[]> {
  if (cuda === "none") return [];
  const library = await buildCudaLibrary(join(cache, "release"), "release");
  if (cuda === "embedded") return [await compressed(library)];
  const beside = join(dirname(outfile), cudaBesideName);
  copyFileSync(library, `${beside}.${process.pid}`);
  renameSync(`${beside}.${process.pid}`, beside);
  console.log(beside);
  return [];
}

export type BuildExecutable = { readonly target: Target; readonly outfile: string; readonly cuda: Cuda };

/** Builds one executable; throws on CUDA for a target that has none. */
export async function buildExecutable({ target, outfile, cuda }: BuildExecutable): Promise<void> {
  if (cuda !== "none" && target !== "linux-x64") {
    throw new Error(`[build] expected --cuda none for ${target}, got ${cuda}. CUDA is built for linux-x64.`);
  }
  const { libraries, binding } = await buildNative(target);
  mkdirSync(dirname(outfile), { recursive: true });
  const files = [
    ...(binding ? [await plain(bindingName, binding)] : []),
    ...(await Promise.all(libraries.map(compressed))),
    await compressed(join(root, "fixtures", "docs-oss-13m-mxfp4.gguf")),
    ...(await placeCuda(cuda, outfile)),
  ];
  // for this machine Bun copies itself; the runtime of another comes from the package registry
  const other = target === nativeTarget() ? {} : { target: `bun-${target}` as const };
  const result = await Bun.build({
    entrypoints: [
      join(root, "src", "main.ts"),
      join(root, "src", "serve", "engine", "worker.ts"),
      join(root, "src", "serve", "grammar", "worker.ts"),
      join(root, "src", "serve", "prefix_store", "reader.ts"),
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
    compile: { ...other, outfile, autoloadDotenv: false, autoloadBunfig: false },
  });
  if (!result.success) throw new AggregateError(result.logs, "[build] expected a bundle, got errors");
  // Bun signs for macOS as it writes; on a Mac the system's own tool does it again, over whatever was added
  if (process.platform === "darwin") await run(["codesign", "--force", "--sign", "-", outfile]);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      native: { type: "boolean", default: false },
      outfile: { type: "string", default: join(root, "dist", "psionic") },
      target: { type: "string", default: nativeTarget() },
      cuda: { type: "string", default: "none" },
    },
  });
  const target = targets.find((name) => name === values.target);
  const cuda = cudaPlaces.find((name) => name === values.cuda);
  if (!target) throw new Error(`[build] expected --target ${targets.join(", ")}, got ${values.target}`);
  if (!cuda) throw new Error(`[build] expected --cuda ${cudaPlaces.join(", ")}, got ${values.cuda}`);
  if (values.native) return console.log((await buildNative(target)).libraries.join("\n"));
  const outfile = resolve(values.outfile);
  await buildExecutable({ target, outfile, cuda });
  console.log(`${outfile}  ${(Bun.file(outfile).size / 1e6).toFixed(1)} MB`);
}

if (import.meta.main) await main();
