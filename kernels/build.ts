/**
 * Builds the kernel library: every kernels/cpu/*.cpp once per instruction-set level, every kernels/common/*.cpp once,
 * linked into one libpsionic_cpu.so. Objects and libraries are cached in .cache/ by the hash of compiler, flags,
 * source and the headers it includes. Usage: bun kernels/build.ts [native|linux-x64|linux-arm64]; prints the path.
 */
import { basename, join } from "node:path";
import { cache, cached, inParallel, install, kernels, run, sourceClosure, strictness } from "./compile.ts";

export type CpuTarget = "native" | "linux-x64" | "linux-arm64";
export type BuildOptions = { readonly target?: CpuTarget; readonly compiler?: string };

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
  const strict = strictness(version);
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
  return install(library, join(outDir, "libpsionic_cpu.so"));
}

if (import.meta.main) {
  const target = (process.argv[2] ?? "native") as CpuTarget;
  console.log(await buildCpuLibrary(join(cache, target), { target }));
}
