/**
 * Builds libpsionic_metal.dylib for macOS: shim, launchers and the kernels' source, which the device compiles at first use.
 * On a Mac with Xcode's Metal compiler the kernels are compiled at once and the metallib lies in the library instead, unless
 * PSIONIC_METAL_SOURCE=1 asks for the source.
 * Elsewhere clang and lld make it from the stand-in's names of Metal and the stubs of kernels/apple.
 * Usage: bun kernels/build_metal_library.ts; prints the path and how the kernels are in it.
 */
import { mkdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { flattenedKernels, metalEmbedding, metalSources } from "./build_metal.ts";
import { cache, cached, inParallel, install, kernels, run, sourceClosure } from "./compile.ts";
import { appleHeaders, appleLink, appleTexts, llvm, oldestMacos, program } from "./toolchain.ts";

/** `compiled`: a metallib; `source`: text that Metal compiles on the device. */
export type MetalLibrary = { readonly path: string; readonly kernels: "compiled" | "source" };

const name = "libpsionic_metal.dylib";
const flags = [
  ...["-O2", "-fPIC", "-fvisibility=hidden", "-fblocks", "-fno-objc-arc", "-fexceptions"],
  ...["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-deprecated-declarations"],
  "-Wno-unguarded-availability-new", // residency sets are asked for at run time
];

type Tools = {
  readonly version: string;
  readonly compile: readonly string[];
  readonly texts: readonly string[];
  link(objects: readonly string[], out: string): string[];
};

async function onMac(): Promise<Tools> {
  const compiler = program(["clang"], "darwin-arm64", "Xcode's command-line tools (xcode-select --install)");
  const machine = ["-arch", "arm64", `-mmacosx-version-min=${oldestMacos}`];
  return {
    version: await run([compiler, "--version"]),
    compile: [compiler, ...machine],
    texts: [],
    link: (objects, out) => [
      ...[
        compiler,
        ...machine,
        "-dynamiclib",
        "-install_name",
        `@rpath/${name}`,
        "-Wl,-dead_strip",
        "-Wl,-x",
      ],
      // Metal has a default device only where CoreGraphics is loaded, of which nothing is called
      ...["-framework", "Foundation", "-framework", "Metal", "-Wl,-needed_framework,CoreGraphics"],
      ...[...objects, "-o", out],
    ],
  };
}

async function forMac(): Promise<Tools> {
  const compiler = program(llvm("clang"), "darwin-arm64", "clang");
  const linker = program(llvm("ld64.lld"), "darwin-arm64", "lld");
  const [version, linkerVersion] = await Promise.all([
    run([compiler, "--version"]),
    run([linker, "--version"]),
  ]);
  const standin = join(kernels, "metal", "standin");
  const names = ["Foundation/Foundation.h", "Metal/Metal.h"].map((file) => join(standin, file));
  const headers = await Promise.all(names.map((file) => Bun.file(file).text()));
  const frameworks = ["CoreFoundation", "CoreGraphics", "Foundation", "Metal"];
  const link = appleLink(linker, ["libSystem", "libobjc", ...frameworks], name);
  return {
    version: version + linkerVersion,
    compile: [compiler, ...appleHeaders, "-I", standin],
    texts: [...headers, ...(await appleTexts("include")), ...(await appleTexts("stubs"))],
    link: (objects, out) => [...link, ...objects, "-o", out],
  };
}

/**
 * What Xcode's Metal compiler says of itself; undefined where there is none, or PSIONIC_METAL_SOURCE=1 asks for none. One
 * that is there and does not run is told, since the library then holds source where its maker expected compiled kernels.
 */
export async function metalCompiler(
  find: readonly string[] = ["xcrun", "-sdk", "macosx"],
  asked = process.env.PSIONIC_METAL_SOURCE,
): Promise<string | undefined> {
  if (asked !== undefined && asked !== "1") {
    throw new Error(
      `[kernels/build] expected PSIONIC_METAL_SOURCE=1 or no such variable, got ${JSON.stringify(asked)}.`,
    );
  }
  if (asked === "1") return undefined;
  const isThere = await run([...find, "--find", "metal"]).catch(() => undefined);
  if (isThere === undefined) return undefined;
  try {
    return await run([...find, "metal", "--version"]);
  } catch (error) {
    const said = error instanceof Error ? error.message.trim() : String(error);
    console.warn(
      `${said}\n[kernels/build] expected Xcode's Metal compiler to run, got the above: the library will hold source. ` +
        "Repair it (Xcode 26: xcodebuild -downloadComponent MetalToolchain), or set PSIONIC_METAL_SOURCE=1.",
    );
    return undefined;
  }
}

/** The kernels compiled by Xcode's Metal compiler into one metallib; undefined where there is no such compiler. */
async function metallib(): Promise<Uint8Array | undefined> {
  if (process.platform !== "darwin") return undefined;
  const xcrun = ["xcrun", "-sdk", "macosx"];
  const found = await metalCompiler(xcrun);
  if (found === undefined) return undefined;
  const metalFlags = ["-std=metal3.0", `-mmacosx-version-min=${oldestMacos}`, "-fno-fast-math", "-O2"];
  const folder = join(cache, "metal", "flattened");
  await mkdir(folder, { recursive: true });
  const { kernels: files } = await metalSources();
  const objects = await inParallel(files, async ({ stem, path }) => {
    const text = await flattenedKernels(path);
    const flat = join(folder, `${stem}.metal`);
    await Bun.write(flat, text);
    return cached(".air", [found, metalFlags.join(" "), text], (out) => [
      ...[...xcrun, "metal", ...metalFlags, "-c", flat, "-o", out],
    ]);
  });
  const library = await cached(".metallib", [found, ...objects.map((o) => basename(o))], (out) => [
    ...xcrun,
    "metallib",
    ...objects,
    "-o",
    out,
  ]);
  return Bun.file(library).bytes();
}

/** Builds the library into `outDir`; throws naming what is not installed. */
export async function buildMetalLibrary(outDir: string): Promise<MetalLibrary> {
  const tools = await (process.platform === "darwin" ? onMac() : forMac());
  const [compiler, ...own] = tools.compile;
  const compile = (file: string, texts: readonly string[]): Promise<string> =>
    cached(".o", [tools.version, [...flags, ...own].join(" "), ...texts, ...tools.texts], (out) => [
      ...[compiler!, ...flags, ...own, "-c", file, "-o", out],
    ]);
  const { objectiveC } = await metalSources();
  const objects = await inParallel(objectiveC, async (file) =>
    compile(file, [...(await sourceClosure(file)).values()]),
  );
  const compiled = await metallib();
  const text = await metalEmbedding(compiled);
  const embedded = join(cache, "metal", `${Bun.hash.xxHash3(text).toString(16)}-macos.c`);
  await mkdir(dirname(embedded), { recursive: true });
  await Bun.write(embedded, text);
  objects.push(await compile(embedded, [text]));
  const link = tools
    .link(
      objects.map((o) => basename(o)),
      "",
    )
    .join(" ");
  const library = await cached(".dylib", [tools.version, link, ...tools.texts], (out) =>
    tools.link(objects, out),
  );
  return { path: await install(library, join(outDir, name)), kernels: compiled ? "compiled" : "source" };
}

if (import.meta.main) {
  const { path, kernels: how } = await buildMetalLibrary(join(cache, "darwin-arm64"));
  console.log(`${path}  kernels: ${how}`);
}
