/**
 * Builds libpsionic_cuda.so with nvcc, and libpsionic_cuda_standin.so, the same kernels compiled by g++ to run on fibers
 * of the CPU (kernels/standin), which is what tests use where there is no device.
 * Usage: bun kernels/build_cuda.ts [development|release|standin]; prints the path.
 *        bun kernels/build_cuda.ts check; reads every kernel as each architecture of a release does, without machine code: a
 *        minute where the release takes an hour.
 */
import { basename, join } from "node:path";
import { cache, cached, inParallel, install, kernels, run, sourceClosure, strictness } from "./compile.ts";

/**
 * Machine code of a release by the architecture it is compiled for, and PTX of the newest for what comes after. No kernel
 * asks for anything between 8.0 and 9.0, so that one pass of the compiler serves three assemblers.
 */
const releaseTargets: Readonly<Record<string, readonly string[]>> = {
  "80": ["sm_80", "sm_86", "sm_89"],
  "90a": ["sm_90a"],
  "100": ["sm_100"],
  "120": ["sm_120", "compute_120"],
};

/** What machine code a release has, for a reader. */
export function releaseCode(): string {
  const [machine, ptx] = ["sm_", "compute_"].map((kind) => {
    const names = Object.values(releaseTargets)
      .flat()
      .filter((name) => name.startsWith(kind));
    return names
      .map((name) => name.slice(kind.length))
      .sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10));
  });
  return `sm_${machine!.join(" ")}, PTX of ${ptx!.join(" ")}`;
}

/** `development`: one architecture, PSIONIC_CUDA_ARCH or 90a. */
function targets(kind: "development" | "release"): string[] {
  const code = (arch: string, of: readonly string[]) =>
    `-gencode=arch=compute_${arch},code=[${of.join(",")}]`;
  const one = process.env.PSIONIC_CUDA_ARCH ?? "90a";
  if (kind === "development") return [`-gencode=arch=compute_${one},code=sm_${one}`];
  return [...Object.entries(releaseTargets).map(([arch, of]) => code(arch, of)), "--compress-mode=size"];
}

const deviceFlags = [
  "-O3",
  "-std=c++17",
  "--expt-relaxed-constexpr",
  "-Werror=all-warnings",
  "-Xcudafe=--display_error_number",
];
const hostFlags = ["-O2", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"];

async function sources(): Promise<string[]> {
  const found = await Array.fromAsync(new Bun.Glob("*.cu").scan(join(kernels, "cuda")));
  return found.sort().map((file) => join(kernels, "cuda", file));
}

/** Objects of C++ files that both libraries contain. */
async function hostObjects(files: readonly string[]): Promise<string[]> {
  const version = await run(["g++", "--version"]);
  const flags = [...hostFlags, ...strictness(version)];
  return inParallel(files, async (file) => {
    const texts = [...(await sourceClosure(file)).values()];
    return cached(".o", [version, flags.join(" "), ...texts], (out) => [
      "g++",
      ...flags,
      "-c",
      file,
      "-o",
      out,
    ]);
  });
}

const status = join(kernels, "common", "status.cpp");

/** Builds the library for real devices into `outDir`; throws where there is no nvcc. */
export async function buildCudaLibrary(outDir: string, kind: "development" | "release"): Promise<string> {
  const nvcc = Bun.which("nvcc");
  if (!nvcc)
    throw new Error("[kernels/build_cuda] expected nvcc on PATH, got none. Install CUDA's compiler.");
  const version = await run([nvcc, "--version"]);
  const flags = [...deviceFlags, ...targets(kind), "-Xcompiler", "-fPIC,-O2,-fvisibility=hidden,-Wall"];
  const objects = await inParallel(await sources(), async (file) => {
    const texts = [...(await sourceClosure(file)).values()];
    return cached(".o", [version, flags.join(" "), ...texts], (out) => [
      nvcc,
      ...flags,
      "-c",
      file,
      "-o",
      out,
    ]);
  });
  objects.push(...(await hostObjects([status])));
  const link = [
    ...targets(kind),
    "-cudart=static",
    "-shared",
    "-Xlinker=--exclude-libs,ALL",
    "-Xlinker=--no-undefined",
  ];
  const runtime = ["-Xcompiler=-static-libstdc++,-static-libgcc"];
  const library = await cached(
    ".so",
    [version, link.join(" "), ...objects.map((o) => basename(o))],
    (out) => [...[nvcc, ...link, ...runtime, ...objects, "-o", out]],
  );
  return install(library, join(outDir, "libpsionic_cuda.so"));
}

/** Refuses what warns or fails for an architecture of a release before its machine code is made. */
async function checkArchitectures(): Promise<void> {
  const files = await sources();
  const jobs = Object.keys(releaseTargets).flatMap((arch) => files.map((file) => ({ arch, file })));
  await inParallel(jobs, ({ arch, file }) =>
    run(["nvcc", ...deviceFlags, `-arch=compute_${arch}`, "-Xcicc", "-O0", "-ptx", file, "-o", "/dev/null"]),
  );
  console.log(`${files.length} files for compute_${Object.keys(releaseTargets).join(", ")}: no warnings`);
}

/** Builds the library that runs on fibers into `outDir`. */
export async function buildCudaStandin(outDir: string): Promise<string> {
  const version = await run(["g++", "--version"]);
  const headers = join(kernels, "standin", "cuda");
  const runtime = join(headers, "cuda_runtime.h");
  const flags = [...hostFlags, ...strictness(version), "-Wno-unknown-pragmas"];
  const standin = [...(await sourceClosure(runtime)).values()];
  const objects = await inParallel(await sources(), async (file) => {
    const texts = [...standin, ...(await sourceClosure(file)).values()];
    return cached(".o", [version, flags.join(" "), ...texts], (out) => [
      ...["g++", ...flags, "-I", headers, "-x", "c++", "-c", file, "-o", out],
    ]);
  });
  objects.push(...(await hostObjects([status, join(kernels, "standin", "fiber.cpp")])));
  const link = ["-shared", "-pthread", "-Wl,--no-undefined", "-s"];
  const library = await cached(
    ".so",
    [version, link.join(" "), ...objects.map((o) => basename(o))],
    (out) => [...["g++", ...objects, ...link, "-o", out]],
  );
  return install(library, join(outDir, "libpsionic_cuda_standin.so"));
}

if (import.meta.main) {
  const kind = process.argv[2] ?? "development";
  const out = join(cache, "native");
  if (kind === "standin") console.log(await buildCudaStandin(out));
  else if (kind === "check") await checkArchitectures();
  else if (kind === "development" || kind === "release") console.log(await buildCudaLibrary(out, kind));
  else throw new Error(`[kernels/build_cuda] expected development, release, standin or check, got ${kind}`);
}
