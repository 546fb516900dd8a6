/**
 * Builds the kernel library: every kernels/cpu/*.cpp once per instruction-set level (avx_vnni and amx: those with integer
 * products), every kernels/common/*.cpp once, linked into one libpsionic_cpu.so (.dylib for macOS). Objects and libraries are cached in .cache/ by the hash of
 * compiler, flags, source and the headers it includes.
 * Usage: bun kernels/build.ts [native|linux-x64|linux-arm64|darwin-arm64]; prints the path.
 */
import { basename, join } from "node:path";
import { cache, cached, inParallel, install, kernels, sourceClosure } from "./compile.ts";
import { libraryExtension, nativeTarget, type Target, toolchain } from "./toolchain.ts";

export type BuildOptions = { readonly target?: Target; readonly compiler?: string };

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
/** `only`: files that have something of their own at this level. */
type Level = { readonly name: string; readonly flags: readonly string[]; readonly only?: readonly string[] };

const avx2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi2"];
const avx512 = [
  ...[...avx2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
  ...["-mavx512vnni", "-mprefer-vector-width=512"],
  // g++ 12 reports its own intrinsics headers (GCC bug 105593); the other levels keep the warnings.
  ...["-Wno-uninitialized", "-Wno-maybe-uninitialized"],
];
/** Files with kernels of PSI_DOT_KERNEL. */
const integerProducts = ["device.cpp", "matmul.cpp", "moe_matmul.cpp", "product.cpp", "product_float.cpp"];
const levels: Record<"x64" | "arm64", readonly Level[]> = {
  x64: [
    // Vectors are arrays on the plain level: -O3 would unroll their loops into megabytes.
    { name: "plain", flags: ["-O2"] },
    // g++ 12 would put the additions of a tile's sums off, and spill every product.
    { name: "avx2", flags: [...avx2, "-fno-tree-ter", "-fno-tree-reassoc"] },
    { name: "avx_vnni", flags: [...avx2, "-mavxvnni"], only: integerProducts },
    { name: "avx512", flags: avx512 },
    { name: "amx", flags: [...avx512, "-mamx-tile", "-mamx-int8"], only: integerProducts },
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
      if (level.only && !level.only.includes(basename(source))) continue;
      const launcher = level.name === "plain" ? ["-DPSI_LAUNCHER=1"] : [];
      list.push({ source, flags: [...level.flags, `-DPSI_ISA=${level.name}`, ...launcher] });
    }
  }
  return list;
}

/** Builds the CPU kernel library for a target into `outDir` and returns its path. */
export async function buildCpuLibrary(outDir: string, options: BuildOptions = {}): Promise<string> {
  const target = options.target ?? nativeTarget();
  const tools = await toolchain(target, options.compiler);
  const objects = await inParallel(
    await jobs(target === "linux-x64" ? "x64" : "arm64"),
    async ({ source, flags }) => {
      const texts = [...(await sourceClosure(source)).values(), ...tools.headers];
      const [compiler, ...own] = tools.compile;
      const all = [...compileFlags, ...own, ...flags];
      return cached(".o", [tools.version, all.join(" "), ...texts], (out) => [
        ...[compiler!, ...all, "-c", source, "-o", out],
      ]);
    },
  );
  const extension = libraryExtension(target);
  const name = `libpsionic_cpu.${extension}`;
  const link = tools
    .link(
      objects.map((o) => basename(o)),
      name,
      "",
    )
    .join(" ");
  const library = await cached(`.${extension}`, [tools.version, link, ...tools.stubs], (out) =>
    tools.link(objects, name, out),
  );
  return install(library, join(outDir, name));
}

if (import.meta.main) {
  const asked = process.argv[2] ?? "native";
  const target = asked === "native" ? nativeTarget() : (asked as Target);
  console.log(await buildCpuLibrary(join(cache, asked), { target }));
}
