/**
 * Compilers and linkers by the machine that a library is for. Linux libraries come from g++, the other architecture's from
 * its cross compiler. macOS libraries come from Apple's tools on a Mac; elsewhere from clang and lld with the headers and
 * stub libraries of kernels/apple, without any Apple SDK, signed ad hoc by the linker.
 */
import { join } from "node:path";
import { kernels, run, strictness } from "./compile.ts";

export type Target = "linux-x64" | "linux-arm64" | "darwin-arm64";
export const targets: readonly Target[] = ["linux-x64", "linux-arm64", "darwin-arm64"];

/** macOS from this on: the oldest that Bun's executables run on. */
export const oldestMacos = "13.0";

export type Toolchain = {
  readonly target: Target;
  /** What identifies the compiler, for keys of caches. */
  readonly version: string;
  /** The command that compiles C++, its flags for the target included; `-c SOURCE -o OUT` follow. */
  readonly compile: readonly string[];
  /** Texts that objects depend on besides their sources, and those that libraries depend on besides objects. */
  readonly headers: readonly string[];
  readonly stubs: readonly string[];
  /** The command that links a library under its own name. */
  link(objects: readonly string[], name: string, out: string): string[];
};

export function libraryExtension(target: Target): "so" | "dylib" {
  return target === "darwin-arm64" ? "dylib" : "so";
}

/** The target that is the machine running this; throws on one that nothing is built for. */
export function nativeTarget(): Target {
  const name = `${process.platform}-${process.arch}`;
  const found = targets.find((target) => target === name);
  if (found) return found;
  throw new Error(`[kernels/build] expected ${targets.join(", ")}, got a machine that is ${name}.`);
}

/** The first of the programs that is on PATH; throws naming what to install. */
export function program(names: readonly string[], target: Target, install: string): string {
  const found = names.find((name) => Bun.which(name));
  if (found) return found;
  throw new Error(
    `[kernels/build] expected one of ${names.join(", ")} on PATH for ${target}, got none. Install ${install}.`,
  );
}

const llvmVersions = ["19", "20", "21", "18", "17"];
/** Names of a program of LLVM as Debian installs it, newest tested first. */
export const llvm = (name: string): string[] => [...llvmVersions.map((v) => `${name}-${v}`), name];

const linuxLink = [
  ...["-shared", "-pthread", "-static-libstdc++", "-static-libgcc"],
  ...["-Wl,--exclude-libs,ALL", "-Wl,--no-undefined", "-Wl,-z,now", "-Wl,-O1", "-s"],
];

async function linux(target: Target, asked: string | undefined): Promise<Toolchain> {
  const cross = target === "linux-arm64" ? "aarch64-linux-gnu-g++" : "x86_64-linux-gnu-g++";
  const wanted = asked ?? (target === nativeTarget() ? "g++" : cross);
  const compiler = program([wanted], target, wanted === "g++" ? "g++" : `g++ for ${target}`);
  const version = await run([compiler, "--version"]);
  return {
    target,
    version,
    compile: [compiler, ...strictness(version)],
    headers: [],
    stubs: [],
    link: (objects, _name, out) => [compiler, ...objects, ...linuxLink, "-o", out],
  };
}

async function onMac(): Promise<Toolchain> {
  const compiler = program(
    ["clang++"],
    "darwin-arm64",
    "Xcode's command-line tools (xcode-select --install)",
  );
  const machine = ["-arch", "arm64", `-mmacosx-version-min=${oldestMacos}`];
  return {
    target: "darwin-arm64",
    version: await run([compiler, "--version"]),
    compile: [compiler, ...machine],
    headers: [],
    stubs: [],
    link: (objects, name, out) => [
      ...[
        compiler,
        ...machine,
        "-dynamiclib",
        "-install_name",
        `@rpath/${name}`,
        "-Wl,-dead_strip",
        "-Wl,-x",
      ],
      ...[...objects, "-o", out],
    ],
  };
}

const apple = join(kernels, "apple");
/** Flags of clang on other systems: the target, and our headers in the place of the system's. */
export const appleHeaders: readonly string[] = [
  `--target=arm64-apple-macos${oldestMacos}`,
  ...["-nostdlibinc", "-isystem", join(apple, "include")],
];

/** The command that links for macOS with lld, against the named stubs of kernels/apple/stubs. */
export function appleLink(linker: string, stubs: readonly string[], name: string): string[] {
  return [
    ...[linker, "-arch", "arm64", "-dylib", "-platform_version", "macos", oldestMacos, oldestMacos],
    ...["-install_name", `@rpath/${name}`, "-adhoc_codesign", "-dead_strip", "-x", "--error-limit=0"],
    ...stubs.map((stub) => join(apple, "stubs", `${stub}.tbd`)),
  ];
}

/** Contents of the headers or the stubs, which results depend on. */
export async function appleTexts(folder: "include" | "stubs"): Promise<string[]> {
  const names = (await Array.fromAsync(new Bun.Glob("**/*").scan(join(apple, folder)))).sort();
  return Promise.all(names.map((name) => Bun.file(join(apple, folder, name)).text()));
}

async function forMac(): Promise<Toolchain> {
  const compiler = program(llvm("clang++"), "darwin-arm64", "clang");
  const linker = program(llvm("ld64.lld"), "darwin-arm64", "lld");
  const [version, linkerVersion] = await Promise.all([
    run([compiler, "--version"]),
    run([linker, "--version"]),
  ]);
  return {
    target: "darwin-arm64",
    version: version + linkerVersion,
    compile: [compiler, ...appleHeaders, "-nostdinc++"],
    headers: await appleTexts("include"),
    stubs: await appleTexts("stubs"),
    link: (objects, name, out) => [...appleLink(linker, ["libSystem"], name), ...objects, "-o", out],
  };
}

/** The tools for a target, a compiler of one's own choice on Linux; throws naming what is not installed. */
export function toolchain(target: Target, compiler?: string): Promise<Toolchain> {
  if (target !== "darwin-arm64") return linux(target, compiler);
  return process.platform === "darwin" ? onMac() : forMac();
}
