/**
 * Builds the Metal kernels for the stand-in (kernels/metal/standin), which runs them on Linux for tests, and lists the
 * sources that a library for macOS is made of.
 * Usage: bun kernels/build_metal.ts [checked|standin|faults|missing]; prints the path, or what is missing to build it.
 */
import { existsSync } from "node:fs";
import { mkdir, rename } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { cache, cached, inParallel, install, kernels, run, sourceClosure } from "./compile.ts";
import { libraryName, translate } from "./metal/standin/translate.ts";

const folder = join(kernels, "metal");
const standin = join(folder, "standin");

/** The files of a Metal library: shim and launchers in Objective-C, kernels by stem. */
export type MetalSources = {
  readonly objectiveC: readonly string[];
  readonly kernels: readonly { readonly stem: string; readonly path: string }[];
};

/** Every source of the library for macOS; the C file that `metalEmbedding` writes comes on top. */
export async function metalSources(): Promise<MetalSources> {
  const find = async (pattern: string) =>
    (await Array.fromAsync(new Bun.Glob(pattern).scan(folder))).sort().map((file) => join(folder, file));
  return {
    objectiveC: await find("*.m"),
    kernels: (await find("*.metal")).map((path) => ({ stem: basename(path, ".metal"), path })),
  };
}

/** A .metal file with its quoted includes in place, each once: what Metal compiles, here as on a Mac. */
export async function flattenedKernels(path: string): Promise<string> {
  const seen = new Set<string>();
  const flatten = async (file: string): Promise<string> => {
    if (seen.has(file)) return "";
    seen.add(file);
    const lines: string[] = [];
    for (const line of (await Bun.file(file).text()).split("\n")) {
      const include = /^\s*#include\s+"([^"]+)"/.exec(line);
      if (include) lines.push(await flatten(join(dirname(file), include[1]!)));
      else if (!/^\s*#pragma once/.test(line)) lines.push(line);
    }
    return lines.join("\n");
  };
  // sums and products are rounded one by one, as everywhere; fma() is written where it is meant
  return `#pragma METAL fp contract(off)\n${await flatten(path)}`;
}

/** C of the tables that the shim reads: compiled kernels, if there are any, and all sources. */
export async function metalEmbedding(metallib?: Uint8Array, of?: MetalSources): Promise<string> {
  const { kernels: files, objectiveC: launchers } = of ?? (await metalSources());
  const texts = await Promise.all(launchers.map((path) => Bun.file(path).text()));
  const symbols = texts.flatMap((text) =>
    [...text.matchAll(/^PSI_API [\w *]+?\b(psi_\w+)\(/gm)].map((m) => m[1]),
  );
  const sources = await Promise.all(
    files.map(async ({ stem, path }) => `{"${stem}",\n${cString(await flattenedKernels(path))}},`),
  );
  return [
    "typedef struct { const char *stem, *source; } PsiSource;",
    `const char psi_symbol_list[] = "${symbols.join("\\n")}";`,
    `const unsigned char psi_metallib[] =\n${cBytes(metallib ?? new Uint8Array(0))};`,
    `const unsigned long psi_metallib_bytes = ${metallib?.length ?? 0};`,
    `const PsiSource psi_sources[] = {\n${sources.join("\n")}\n{0, 0}};`,
    "",
  ].join("\n");
}

function cString(text: string): string {
  const escaped = (line: string): string => line.replaceAll("\\", "\\\\").replaceAll('"', '\\"');
  return text
    .split("\n")
    .map((line) => `"${escaped(line)}\\n"`)
    .join("\n")
    .replace(/\\n"$/, '"');
}

const octal = Array.from({ length: 256 }, (_, byte) => `\\${byte.toString(8).padStart(3, "0")}`);

/** Bytes as a string of C, with one 0 more: a list of numbers takes clang 15 times as long, and a gigabyte. */
function cBytes(bytes: Uint8Array): string {
  const lines: string[] = [];
  for (let at = 0; at === 0 || at < bytes.length; at += 128) {
    lines.push(`"${Array.from(bytes.subarray(at, at + 128), (byte) => octal[byte]).join("")}"`);
  }
  return lines.join("\n");
}

/** Why the stand-in cannot be built here; undefined where it can. */
export function standinMissing(): string | undefined {
  for (const tool of ["clang-19", "clang++-19"]) if (!Bun.which(tool)) return `no ${tool} on PATH`;
  return objectiveCFolder() ? undefined : "no Objective-C runtime of GCC (libobjc-12-dev)";
}

/** Where gcc keeps libobjc and its headers. */
function objectiveCFolder(): string | undefined {
  const triple = process.arch === "arm64" ? "aarch64-linux-gnu" : "x86_64-linux-gnu";
  const versions = ["12", "13", "14", "15"].map((v) => `/usr/lib/gcc/${triple}/${v}`);
  return versions.find((v) => existsSync(join(v, "include", "objc", "objc.h")));
}

const common = [
  "-O2",
  "-fPIC",
  "-fvisibility=hidden",
  "-Wall",
  "-Wextra",
  "-Werror",
  "-Wno-unused-parameter",
];
const cpp = ["-std=c++20", ...common];
/** Classes of a library's device get names of their own: a process has one table of them, and may load both kinds. */
const classes = [
  ...["MTLCompileOptions", "MTLFunctionConstantValues", "MTLResidencySetDescriptor"],
  ...["StandinBufferObject", "StandinFunction", "StandinPipeline", "StandinLibrary", "StandinCommands"],
  ...["StandinEncoder", "StandinResidency", "StandinQueue", "StandinDevice"],
];
const objectiveC = (suffix: string): string[] => [
  ...["-fobjc-runtime=gcc", "-fno-objc-arc", "-fblocks", "-fexceptions", "-DPSI_STANDIN=1"],
  ...["-fconstant-string-class=NSConstantString", `-DSTANDIN_SUFFIX="${suffix}"`],
  ...[...classes.map((name) => `-D${name}=${name}${suffix}`), ...common],
];
const kernelFlags = [
  ...["-std=c++20", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti"],
  ...["-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-variable", "-Wno-unused-function"],
  ...["-Wno-unused-const-variable", "-Wno-duplicate-decl-specifier", "-Wno-missing-braces"],
  ...(process.arch === "x64" ? ["-march=x86-64-v3"] : []),
];
/** Calls to checks.cpp before every access, each access for itself. */
const checkedFlags = [
  ...["-O1", "-gline-tables-only", "-fsanitize=thread", "-fno-vectorize", "-fno-slp-vectorize"],
  ...["-mllvm", "-tsan-instrument-func-entry-exit=0"],
];

/** Writes generated text where the compiler finds it, under a name that says what it is. */
async function generated(name: string, text: string): Promise<string> {
  const path = join(cache, "metal", `${Bun.hash.xxHash3(text).toString(16)}-${name}`);
  if (existsSync(path)) return path;
  await mkdir(dirname(path), { recursive: true });
  await Bun.write(`${path}.${process.pid}`, text);
  await rename(`${path}.${process.pid}`, path);
  return path;
}

type Compile = { readonly compiler: string; readonly flags: readonly string[]; readonly file: string };

async function objectOf(
  version: string,
  { compiler, flags, file }: Compile,
  more: string[] = [],
): Promise<string> {
  const texts = [...(await sourceClosure(file)).values(), ...more];
  return cached(".o", [version, compiler, flags.join(" "), ...texts], (out) => [
    ...[compiler, ...flags, "-c", file, "-o", out],
  ]);
}

/** The text with its macros expanded, so that the translation sees what they make; `#include <...>` stays. */
async function expanded(stem: string, source: string): Promise<string> {
  const hidden = source.replace(/^(\s*)#include\s+</gm, "$1//include <");
  const file = await generated(`${stem}.metal`, hidden);
  const command = ["clang++-19", "-E", "-x", "c++", "-std=c++17", "-D__METAL_VERSION__=300", "-w", file];
  return (await run(command)).replace(/^# (\d+) "[^"]*".*$/gm, `#line $1 "${stem}.metal"`);
}

/** The names of Metal, as far as the stand-in has them: part of what every object is made of. */
async function headerTexts(): Promise<string[]> {
  const found = await Array.fromAsync(new Bun.Glob("{*.h,metal_stdlib,*/*.h}").scan(standin));
  return Promise.all(found.sort().map((file) => Bun.file(join(standin, file)).text()));
}

/** The shim with kernels that hold mistakes, for tests of the checks. */
async function faultSources(): Promise<MetalSources> {
  const faults = join(standin, "faults", "faults");
  const shim = ["shim.m", "pipeline.m", "times.m", "types.m"].map((file) => join(folder, file));
  return { objectiveC: [...shim, `${faults}.m`], kernels: [{ stem: "faults", path: `${faults}.metal` }] };
}

/** Which library: all ops, with every access of a kernel checked or without, or the checks' own mistakes. */
export type StandinKind = "checked" | "standin" | "faults";

const libraryFiles: Readonly<Record<StandinKind, string>> = {
  checked: "libpsionic_metal_checked.so",
  standin: "libpsionic_metal-standin.so",
  faults: "libpsionic_metal_faults.so",
};

/** Builds a stand-in library into `outDir`. */
export async function buildMetalStandin(outDir: string, kind: StandinKind = "checked"): Promise<string> {
  const checked = kind !== "standin";
  const missing = standinMissing();
  if (missing) {
    throw new Error(
      `[kernels/build_metal] expected clang 19 and libobjc, got ${missing}. apt-get install clang-19 libobjc-12-dev`,
    );
  }
  const gcc = objectiveCFolder()!;
  const version = await run(["clang-19", "--version"]);
  const headers = await headerTexts();
  const sources = kind === "faults" ? await faultSources() : await metalSources();
  const translated = await inParallel(sources.kernels, async ({ stem, path }) => {
    const source = await flattenedKernels(path);
    const text = translate(stem, await expanded(stem, source), source);
    return { compiler: "clang++-19", file: await generated(`${stem}.cpp`, text), flags: [] };
  });
  const names = sources.kernels.map(({ stem }) => libraryName(stem));
  const index = [
    "#include <kernel.h>\nnamespace psi_metal {",
    ...names.map((name) => `extern const Library ${name};`),
    `extern const Library* const libraries[]; extern const bool checked;`,
    `const Library* const libraries[] = {${names.map((n) => `&${n}, `).join("")}nullptr};`,
    `const bool checked = ${checked};\n}`,
  ].join("\n");
  const runtime = ["executor.cpp", "checks.cpp"].map((f) => join(standin, f));
  const m = [...sources.objectiveC, ...["foundation.m", "device.m"].map((f) => join(standin, f))];
  const kernelCompile = [...kernelFlags, ...(checked ? checkedFlags : ["-O2"]), "-I", standin];
  const jobs: Compile[] = [
    ...translated.map((t) => ({ ...t, flags: kernelCompile })),
    ...[...runtime, join(kernels, "standin", "fiber.cpp"), await generated("libraries.cpp", index)].map(
      (file) => ({
        ...{ compiler: "clang++-19", flags: [...cpp, "-I", standin], file },
      }),
    ),
    ...m.map((file) => ({
      ...{
        compiler: "clang-19",
        flags: [...objectiveC(`_${kind}`), "-I", standin, "-I", join(gcc, "include")],
        file,
      },
    })),
    {
      compiler: "clang-19",
      flags: common,
      file: await generated("embedded.c", await metalEmbedding(undefined, sources)),
    },
  ];
  const objects = await inParallel(jobs, (job) => objectOf(version, job, headers));
  const link = ["-shared", "-pthread", "-Wl,--no-undefined", "-Wl,--exclude-libs,ALL"];
  const libraries = ["-L", gcc, "-lobjc"];
  const library = await cached(
    ".so",
    [version, link.join(" "), ...objects.map((o) => basename(o))],
    (out) => ["clang++-19", ...link, ...objects, ...libraries, "-o", out],
  );
  return install(library, join(outDir, libraryFiles[kind]));
}

if (import.meta.main) {
  const kind = process.argv[2] ?? "checked";
  const missing = standinMissing();
  if (kind === "missing") {
    if (missing) console.log(missing);
    process.exit(missing ? 1 : 0);
  }
  if (!(kind in libraryFiles)) {
    throw new Error(`[kernels/build_metal] expected ${Object.keys(libraryFiles).join(", ")}, got ${kind}`);
  }
  console.log(await buildMetalStandin(join(cache, "native"), kind as StandinKind));
}
