/** What a release is made of: Mach-O files as the kernel of a Mac checks them, kernels for arm64 run by an emulator. */
import { describe, expect, spyOn, test } from "bun:test";
import { join } from "node:path";
import { buildMetalLibrary, metalCompiler } from "../../kernels/build_metal_library.ts";
import { cache, kernels, run } from "../../kernels/compile.ts";
import { appleHeaders, llvm, oldestMacos } from "../../kernels/toolchain.ts";
import { checkMacLibrary, runner } from "./checks.ts";
import { checkMachO, readMachO } from "./macho.ts";

const found = (name: string): string | undefined => llvm(name).find((program) => Bun.which(program));
const missing = (["clang", "clang++", "ld64.lld"] as const).filter((name) => !found(name));
const onLinux = process.platform === "linux";
const why = onLinux ? `no ${missing.join(", ")} on PATH` : "a Mac has Apple's tools";
const canLink = onLinux && missing.length === 0;

describe(`Mach-O files${canLink ? "" : ` (skipped: ${why})`}`, () => {
  const folder = join(cache, "darwin-arm64");

  test.skipIf(!canLink)(
    "the Metal library names its frameworks and is signed",
    async () => {
      const { path, kernels: how } = await buildMetalLibrary(folder);
      expect(how).toBe("source");
      const bytes = await Bun.file(path).bytes();
      const library = readMachO(bytes);
      expect(library).toMatchObject({ kind: "library", cpu: "arm64", oldest: oldestMacos });
      expect(library.installName).toBe("@rpath/libpsionic_metal.dylib");
      expect(library.libraries.map((name) => name.split("/").at(-1)).sort()).toEqual([
        ...["CoreFoundation", "CoreGraphics", "Foundation", "Metal", "libSystem.B.dylib", "libobjc.A.dylib"],
      ]);
      expect(checkMachO(bytes, "library")).toContain("right");
      expect(checkMacLibrary("metal", bytes)).toContain("functions"); // dlopen binds all of them or fails
      expect(() => checkMacLibrary("cpu", bytes)).toThrow("psi_map");
      const renamed = Buffer.from(bytes);
      renamed.write("_psi_axd\0", renamed.indexOf("_psi_add\0")); // the name of an op, wherever it stands
      expect(() => checkMacLibrary("metal", renamed)).toThrow("to have psi_add, got none");
      expect(Buffer.from(bytes).includes("kernel void")).toBe(true); // source, compiled on the device
    },
    300_000, // compiles it where nothing is cached
  );

  test.skipIf(!canLink)(
    "the Metal shim needs nothing of SDKs newer than macOS 14's",
    async () => {
      const flags = [...["-fblocks", "-fexceptions", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]];
      const sdk = ["-D__MAC_OS_X_VERSION_MAX_ALLOWED=140000", "-DMTLResidencySet=NotThere"];
      const names = ["-I", join(kernels, "metal", "standin"), "-fsyntax-only"];
      const shim = join(kernels, "metal", "shim.m");
      const compile = [found("clang")!, ...appleHeaders, ...flags, ...names];
      expect(await run([...compile, ...sdk, shim])).toBe("");
    },
    60_000,
  );

  test.skipIf(!canLink)(
    "one changed byte, a missing signature, a wrong kind are found",
    async () => {
      const { path } = await buildMetalLibrary(folder);
      const bytes = await Bun.file(path).bytes();
      const changed = bytes.slice();
      changed[20_000]! ^= 1;
      expect(() => checkMachO(changed, "library")).toThrow("1 stale pages");
      expect(() => checkMachO(bytes, "executable")).toThrow("an library");
      const { signature } = readMachO(bytes);
      const unsigned = bytes.slice();
      unsigned.fill(0, signature!.bytes);
      expect(() => checkMachO(unsigned, "library")).toThrow("no ad-hoc signature");
    },
    120_000,
  );

  test("another file is refused", () => {
    expect(() => readMachO(new Uint8Array(64))).toThrow("expected a 64-bit Mach-O file");
  });

  test.skipIf(!canLink)(
    "layouts of macOS that our headers declare",
    async () => {
      const source = join(kernels, "apple", "layout.c");
      const flags = ["-std=c11", "-Wall", "-Werror", "-fsyntax-only"];
      expect(await run([found("clang")!, ...appleHeaders, ...flags, source])).toBe("");
    },
    60_000,
  );

  test.skipIf(!canLink)(
    "kernels of a few ops compile for macOS",
    async () => {
      const flags = [
        "-std=c++17",
        "-O1",
        "-fno-exceptions",
        "-fno-rtti",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsyntax-only",
      ];
      const level = ["-march=armv8.2-a+dotprod", "-DPSI_ISA=neon", "-DPSI_LAUNCHER=1", "-nostdinc++"];
      const files = ["common/pool.cpp", "common/system_darwin.cpp", "cpu/device.cpp", "cpu/rms_norm.cpp"];
      for (const file of files) {
        const command = [found("clang++")!, ...appleHeaders, ...level, ...flags, join(kernels, file)];
        expect(await run(command)).toBe("");
      }
    },
    60_000,
  );
});

describe("Xcode's Metal compiler", () => {
  /** A program in xcrun's place: the words of each call, and how it ends. */
  const xcrun = (find: string, metal: string): string[] => [
    ...["sh", "-c", `case "$1" in --find) ${find} ;; *) ${metal} ;; esac`, "xcrun"],
  ];
  const works = xcrun("echo /usr/bin/metal", "echo 'Apple metal version 32023'");

  test("is asked who it is, unless source is asked for", async () => {
    expect(await metalCompiler(works, undefined)).toBe("Apple metal version 32023\n");
    expect(await metalCompiler(works, "1")).toBeUndefined();
    await expect(metalCompiler(works, "yes")).rejects.toThrow(
      'PSIONIC_METAL_SOURCE=1 or no such variable, got "yes"',
    );
  });

  test("that is not there is no word, one that does not run is told", async () => {
    const warn = spyOn(console, "warn").mockImplementation(() => {});
    try {
      expect(await metalCompiler(xcrun("exit 72", "exit 72"), undefined)).toBeUndefined();
      expect(warn).not.toHaveBeenCalled();
      const broken = xcrun("echo /usr/bin/metal", "echo 'missing Metal Toolchain' >&2; exit 1");
      expect(await metalCompiler(broken, undefined)).toBeUndefined();
      expect(String(warn.mock.calls[0])).toContain("missing Metal Toolchain");
    } finally {
      warn.mockRestore();
    }
  });
});

const compiler = Bun.which("aarch64-linux-gnu-g++");
const emulator = runner("linux-arm64");
const canRun = onLinux && process.arch === "x64" && compiler !== null && emulator !== undefined;

/** Built by an earlier step of scripts/test.sh: compiling all of it is minutes, too long for a test. */
const library = join(cache, "linux-arm64", "libpsionic_cpu.so");
const isBuilt = await Bun.file(library).exists();
const whyNot = canRun
  ? "bun kernels/build.ts linux-arm64 has not been run"
  : "no aarch64-linux-gnu-g++ or no qemu-aarch64-static";

describe(`kernels for arm64${canRun && isBuilt ? "" : ` (skipped: ${whyNot})`}`, () => {
  test.skipIf(!canRun || !isBuilt)(
    "neon and plain kernels agree with the references under the emulator",
    async () => {
      const program = join(cache, "linux-arm64", "ops");
      const source = join(import.meta.dir, "arm64_ops.cpp");
      await run([
        ...[compiler!, "-O1", "-std=c++17", "-Wall", "-Wextra", "-Werror", source, library, "-o", program],
        "-Wl,-rpath,$ORIGIN",
      ]);
      const lines = (await run([...emulator!, program])).trim().split("\n");
      expect(lines.length).toBeGreaterThan(10);
      for (const line of lines) expect(line).toMatch(/^ok /);
    },
    120_000,
  );
});
