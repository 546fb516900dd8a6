/**
 * Compiles zstd-napi's binding from the C and C++ sources in its package, without node-gyp, and puts it where the package
 * looks for it. Objects are cached in .cache/zstd-napi by the hash of compiler, flags and sources.
 * Usage: bun scripts/zstd-binding.ts          Output: the path of binding.node
 */
import { existsSync, mkdirSync, renameSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, dirname, join } from "node:path";
import { oldestMacos } from "../kernels/toolchain.ts";

const root = join(import.meta.dir, "..");
const modules = join(root, "node_modules");
const zstdPackage = join(modules, "zstd-napi");
const cache = join(root, ".cache", "zstd-napi");

/** For the oldest macOS that the executable runs on, whatever this one is. */
const machine =
  process.platform === "darwin" ? ["-arch", "arm64", `-mmacosx-version-min=${oldestMacos}`] : [];
const both = [
  ...machine,
  "-O2",
  "-fPIC",
  "-fvisibility=hidden",
  "-DXXH_NAMESPACE=ZSTD_",
  "-DZSTDERRORLIB_VISIBLE=",
  "-DZSTDLIB_VISIBLE=",
];
const cFlags = [...both, "-x", "c", "-DZSTD_MULTITHREAD", "-DZSTD_NO_TRACE", "-DZSTD_DISABLE_ASM"];
const cxxFlags = [
  ...[...both, "-std=c++17", "-fexceptions", "-DNAPI_VERSION=8", "-DNODE_ADDON_API_DISABLE_DEPRECATED"],
  ...["-DNODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS", "-DNODE_API_NO_EXTERNAL_BUFFERS_ALLOWED"],
  ...[
    `-I${modules}/node-api-headers/include`,
    `-I${modules}/node-addon-api`,
    `-I${zstdPackage}/deps/zstd/lib`,
  ],
];
const macLinkFlags = [...machine, "-bundle", "-undefined", "dynamic_lookup", "-Wl,-x"];
const linuxLinkFlags = [
  "-shared",
  "-pthread",
  "-static-libstdc++",
  "-static-libgcc",
  "-Wl,--exclude-libs,ALL",
  "-Wl,-z,now",
  "-s",
];
const linkFlags = process.platform === "darwin" ? macLinkFlags : linuxLinkFlags;

async function run(command: readonly string[]): Promise<string> {
  const child = Bun.spawn([...command], { stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`[zstd-binding] ${command.join(" ")}\nexited with ${code}:\n${err}`);
  return out;
}

async function filesOf(pattern: string): Promise<string[]> {
  return (await Array.fromAsync(new Bun.Glob(pattern).scan(zstdPackage)))
    .sort()
    .map((f) => join(zstdPackage, f));
}

/** Hash of everything the binding is made from. */
async function keyOf(compiler: string): Promise<string> {
  const hash = new Bun.CryptoHasher("sha256");
  const inputs = [
    ...(await filesOf("deps/zstd/lib/**/*.{c,h}")),
    ...(await filesOf("src/*.{cc,h}")),
    join(modules, "node-addon-api", "napi-inl.h"),
  ];
  const flags = [...cFlags, ...cxxFlags, ...linkFlags].join(" ").replaceAll(root, "");
  hash.update(`${await run([compiler, "--version"])}\n${flags}`);
  for (const input of inputs) hash.update(await Bun.file(input).bytes());
  return hash.digest("hex");
}

async function compile(compiler: string, out: string): Promise<void> {
  const folder = `${dirname(out)}.${process.pid}`;
  mkdirSync(folder, { recursive: true });
  const sources = [
    ...(await filesOf("deps/zstd/lib/{common,compress,decompress}/*.c")),
    ...(await filesOf("src/*.cc")),
  ];
  const objects = sources.map((s) => join(folder, `${basename(s)}.o`));
  let next = 0;
  const lane = async () => {
    for (let i = next++; i < sources.length; i = next++) {
      const source = sources[i]!;
      await run([compiler, ...(source.endsWith(".c") ? cFlags : cxxFlags), "-c", source, "-o", objects[i]!]);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, lane));
  await run([compiler, ...objects, ...linkFlags, "-o", join(folder, "binding.node")]);
  mkdirSync(dirname(out), { recursive: true });
  renameSync(join(folder, "binding.node"), out);
  await Bun.$`rm -rf ${folder}`.quiet();
}

/** Builds the binding unless the cache has it; returns its path. */
async function built(compiler: string): Promise<string> {
  if (!Bun.which(compiler))
    throw new Error(`[zstd-binding] expected a C++ compiler on PATH, got none named ${compiler}`);
  const binding = join(cache, (await keyOf(compiler)).slice(0, 16), "binding.node");
  if (!existsSync(binding)) await compile(compiler, binding);
  return binding;
}

/** The binding for another machine, by a compiler for it; the package here does not get it. */
export function crossZstdBinding(compiler: string): Promise<string> {
  return built(compiler);
}

/** The binding for this machine, in the package too; returns its path. */
export async function buildZstdBinding(
  compiler = process.platform === "darwin" ? "clang++" : "g++",
): Promise<string> {
  const binding = await built(compiler);
  const place = join(zstdPackage, "build", "Release", "binding.node");
  mkdirSync(dirname(place), { recursive: true });
  const aside = `${place}.${process.pid}`;
  await Bun.write(aside, Bun.file(binding));
  renameSync(aside, place);
  return binding;
}

if (import.meta.main) console.log(await buildZstdBinding());
