/**
 * Builds the kernel library: every kernels/cpu/*.cpp once per instruction-set level, every kernels/common/*.cpp once,
 * linked into one libpsionic_cpu.so. Objects and libraries are cached in .cache/ by the hash of compiler, flags,
 * source and the headers it includes. Usage: bun kernels/build.ts [native|linux-x64|linux-arm64]; prints the path.
 */
import { mkdir, rename } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { basename, dirname, join, resolve } from "node:path";

export type CpuTarget = "native" | "linux-x64" | "linux-arm64";
export type BuildOptions = { readonly target?: CpuTarget; readonly compiler?: string };

const kernels = import.meta.dir;
const cache = join(kernels, "..", ".cache");

const compileFlags = [
  ...[
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
  ],
  ...["-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra"],
];
/** The compiler that continuous integration has. Others warn of other things, which must not stop a build. */
const strictCompiler = /^\S+ .*\b12\.\d+\.\d+$/m;
const linkFlags = [
  ...["-shared", "-pthread", "-static-libstdc++", "-static-libgcc"],
  ...["-Wl,--exclude-libs,ALL", "-Wl,--no-undefined", "-Wl,-z,now", "-Wl,-O1", "-s"],
];

type Level = { readonly name: string; readonly flags: readonly string[] };

const levels: Record<"x64" | "arm64", readonly Level[]> = {
  x64: [
    // Vectors are arrays on the plain level: -O3 would unroll their loops into megabytes.
    { name: "plain", flags: ["-O2"] },
    { name: "avx2", flags: ["-mavx2", "-mfma", "-mf16c", "-mbmi2"] },
    {
      name: "avx512",
      flags: [
        ...["-mavx2", "-mfma", "-mf16c", "-mbmi2", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
        ...["-mavx512vnni", "-mprefer-vector-width=512"],
        // g++ 12 reports its own intrinsics headers (GCC bug 105593); the other levels keep the warnings.
        ...["-Wno-uninitialized", "-Wno-maybe-uninitialized"],
      ],
    },
  ],
  arm64: [
    { name: "plain", flags: ["-O2"] },
    { name: "neon", flags: ["-march=armv8.2-a+dotprod"] },
  ],
};

async function run(command: readonly string[]): Promise<string> {
  const child = Bun.spawn([...command], { stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`[kernels/build] ${command.join(" ")}\nexited with ${code}:\n${err}${out}`);
  return out;
}

/** The file and everything it includes with quotes, each once. */
async function sourceClosure(file: string, seen = new Map<string, string>()): Promise<Map<string, string>> {
  if (seen.has(file)) return seen;
  const text = await Bun.file(file).text();
  seen.set(file, text);
  for (const match of text.matchAll(/^\s*#include\s+"([^"]+)"/gm)) {
    await sourceClosure(resolve(dirname(file), match[1]!), seen);
  }
  return seen;
}

/** Runs `command` (its output path replaced by a cache path) unless the cache has the result; returns the path. */
async function cached(
  extension: string,
  key: readonly string[],
  command: (out: string) => string[],
): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for (const part of key) hasher.update(`${part.length}:${part}`);
  const path = join(cache, "objects", `${hasher.digest("hex")}${extension}`);
  if (await Bun.file(path).exists()) return path;
  await mkdir(dirname(path), { recursive: true });
  const unfinished = `${path}.${process.pid}.part${extension}`;
  await run(command(unfinished));
  await rename(unfinished, path);
  return path;
}

type Job = { readonly source: string; readonly flags: readonly string[] };

async function jobs(architecture: "x64" | "arm64"): Promise<Job[]> {
  const find = async (folder: string) =>
    (await Array.fromAsync(new Bun.Glob("*.cpp").scan(join(kernels, folder))))
      .sort()
      .map((f) => join(kernels, folder, f));
  const list: Job[] = (await find("common")).map((source) => ({ source, flags: [] }));
  for (const source of await find("cpu")) {
    for (const level of levels[architecture]) {
      const launcher = level.name === "plain" ? ["-DPSI_LAUNCHER=1"] : [];
      list.push({ source, flags: [...level.flags, `-DPSI_ISA=${level.name}`, ...launcher] });
    }
  }
  return list;
}

async function inParallel<T, R>(items: readonly T[], body: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = new Array(items.length);
  let next = 0;
  const lanes = Array.from({ length: availableParallelism() }, async () => {
    for (let i = next++; i < items.length; i = next++) results[i] = await body(items[i]!);
  });
  await Promise.all(lanes);
  return results;
}

/** Builds the CPU kernel library for a target into `outDir` and returns the path of libpsionic_cpu.so. */
export async function buildCpuLibrary(outDir: string, options: BuildOptions = {}): Promise<string> {
  const native = process.arch === "arm64" ? "linux-arm64" : "linux-x64";
  const target = options.target === undefined || options.target === "native" ? native : options.target;
  const architecture = target === "linux-arm64" ? "arm64" : "x64";
  const crossCompiler = architecture === "arm64" ? "aarch64-linux-gnu-g++" : "x86_64-linux-gnu-g++";
  const compiler = options.compiler ?? (target === native ? "g++" : crossCompiler);
  if (!Bun.which(compiler)) {
    throw new Error(
      `[kernels/build] expected a C++ compiler on PATH for ${target}, got none named ${compiler}. Install g++.`,
    );
  }
  const version = await run([compiler, "--version"]);
  const strict = strictCompiler.test(version) ? ["-Werror"] : [];
  const objects = await inParallel(await jobs(architecture), async ({ source, flags }) => {
    const texts = [...(await sourceClosure(source)).values()];
    const all = [...compileFlags, ...strict, ...flags];
    return cached(".o", [version, all.join(" "), ...texts], (out) => [
      compiler,
      ...all,
      "-c",
      source,
      "-o",
      out,
    ]);
  });
  const library = await cached(
    ".so",
    [version, linkFlags.join(" "), ...objects.map((o) => basename(o))],
    (out) => [compiler, ...objects, ...linkFlags, "-o", out],
  );
  const path = join(outDir, "libpsionic_cpu.so");
  await mkdir(outDir, { recursive: true });
  const unfinished = `${path}.${process.pid}.part`;
  await Bun.write(unfinished, Bun.file(library));
  await rename(unfinished, path);
  return path;
}

if (import.meta.main) {
  const target = (process.argv[2] ?? "native") as CpuTarget;
  console.log(await buildCpuLibrary(join(cache, target), { target }));
}
