/** What can be seen of a release's files on the machine that made them. */
import { basename, join } from "node:path";
import { symbolTable } from "../../ffi/load.ts";
import { cache } from "../../kernels/compile.ts";
import { nativeTarget, type Target } from "../../kernels/toolchain.ts";
import { checkMachO, readMachO } from "./macho.ts";

/** A command that runs an executable of the target here; undefined where none does. */
export function runner(target: Target): string[] | undefined {
  if (target === nativeTarget()) return [];
  if (target !== "linux-arm64" || process.platform !== "linux") return undefined;
  const emulator = ["qemu-aarch64-static", "qemu-aarch64"].find((name) => Bun.which(name));
  return emulator === undefined ? undefined : [emulator, "-L", "/usr/aarch64-linux-gnu", "-cpu", "max"];
}

const question = "Why does HTTPS matter?";
const longest = 600_000;

async function output(command: readonly string[], environment: Record<string, string> = {}): Promise<string> {
  const child = Bun.spawn([...command], {
    env: { ...process.env, ...environment },
    ...{ stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: longest },
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`[release] ${command.join(" ")}\nexited with ${code}:\n${err}${out}`);
  return out.trim();
}

type Finding = { readonly name: string; readonly state: string; readonly text: string };

/** The rows of doctor; the files it unpacks go to a folder of the build's own. */
async function doctor(run: readonly string[], file: string): Promise<readonly Finding[]> {
  const out = await output([...run, file, "doctor", "--quick", "--json"], {
    PSIONIC_CACHE_DIR: join(cache, "release", "unpacked"),
  });
  return (JSON.parse(out) as { findings: Finding[] }).findings;
}

/** Runs an executable: version, doctor, and the built-in model's answer to a question. */
async function checkRunning(run: readonly string[], file: string, cuda: boolean): Promise<string[]> {
  const found: string[] = [run.length > 0 ? `run by ${basename(run[0]!)}` : "run here"];
  found.push(await output([...run, file, "--version"]));
  const findings = await doctor(run, file);
  found.push(`cpu: ${findings.find(({ name }) => name === "backend cpu")?.text ?? "no row"}`);
  const row = findings.find(({ name }) => name === "backend cuda");
  found.push(`cuda: ${row?.state}, ${row?.text ?? "no row"}`);
  if (cuda && (row?.text ?? "[ffi]").includes("[ffi]")) {
    throw new Error(`[release] expected ${file} to open its CUDA library, got: ${row?.text}`);
  }
  const answer = await output([...run, file, "run", "-p", question, "-n", "48", "--backend", "cpu"], {
    PSIONIC_CACHE_DIR: join(cache, "release", "unpacked"),
  });
  if (answer.length < 20)
    throw new Error(`[release] expected an answer from ${file}, got ${JSON.stringify(answer)}`);
  return [...found, `answers: ${answer.replaceAll("\n", " ")}`];
}

/** A line about a kernel library for macOS; throws when it lacks a function of the program's table. */
export function checkMacLibrary(backend: "cpu" | "metal", bytes: Uint8Array): string {
  const { exports } = readMachO(bytes);
  const wanted = Object.keys(symbolTable(backend));
  const missing = wanted.filter((name) => !exports.has(name));
  if (missing.length > 0) {
    throw new Error(
      `[release] expected libpsionic_${backend}.dylib to have ${missing.join(", ")}, got none.`,
    );
  }
  return `libpsionic_${backend}.dylib: ${wanted.length} functions, ${checkMachO(bytes, "library")}`;
}

/** Lines about an executable; throws when it is not what it must be. */
export async function checkExecutable(target: Target, file: string, cuda: boolean): Promise<string[]> {
  const found: string[] = [];
  if (target === "darwin-arm64") {
    found.push(checkMachO(await Bun.file(file).bytes(), "executable"));
    const folder = join(cache, nativeTarget() === target ? "native" : target);
    for (const backend of ["cpu", "metal"] as const) {
      const library = join(folder, `libpsionic_${backend}.dylib`);
      found.push(checkMacLibrary(backend, await Bun.file(library).bytes()));
    }
  }
  const run = runner(target);
  if (!run) return [...found, `not run: this machine is ${nativeTarget()} and has no emulator for ${target}`];
  return [...found, ...(await checkRunning(run, file, cuda))];
}
