/**
 * The Metal library for the tests of this folder: the stand-in with checks, built if stale, or another one where
 * PSIONIC_METAL_LIBRARY names it (a real one on a Mac). Data moves by `onDevice` and `fromDevice`.
 */
import { dlopen, type FFIFunction } from "bun:ffi";
import { join } from "node:path";
import { symbolTable } from "../../ffi/load.ts";
import { buildMetalStandin, standinMissing } from "../build_metal.ts";
import { type Call, type DeviceMemory, deviceMemory } from "../device_memory.ts";

const named = process.env.PSIONIC_METAL_LIBRARY;
const folder = join(import.meta.dir, "..", "..", ".cache", "native");

/** Path of the library; undefined where nothing can run Metal kernels. */
export const path: string | undefined =
  named ?? (standinMissing() ? undefined : await buildMetalStandin(folder));
if (!path) console.warn(`skipping tests of the Metal kernels: ${standinMissing()}`);

/** Whether kernels run on fibers of the CPU: sizes stay small then. */
export const onFibers: boolean = !named || named.includes("standin") || named.includes("checked");

/** Each symbol for itself, so that an op's test runs while others are still to come. */
function open(file: string): Record<string, Call> {
  const found: Record<string, Call> = {};
  for (const [name, signature] of Object.entries<FFIFunction>(symbolTable("metal"))) {
    try {
      found[name] = dlopen(file, { [name]: signature }).symbols[name] as unknown as Call;
    } catch {
      // an op that this library does not have
    }
  }
  return found;
}

/** Functions of the library by symbol; empty without one. */
export const metal: Record<string, Call> = path ? open(path) : {};

/** Where in the sources a fault of the stand-in was seen, from the place in the code that it names. */
function located(text: string): string {
  const code = /\[code \+0x([0-9a-f]+)\]/.exec(text)?.[1];
  if (!code || !path) return text;
  const { stdout } = Bun.spawnSync(["addr2line", "-e", path, "-i", "-s", `0x${code}`], { stderr: "ignore" });
  return `${text} ${stdout.toString().trim().split("\n").join(" < ")}`;
}

export type { Call };
export const memory: DeviceMemory = deviceMemory(metal, located);
export const { check, deviceBytes, onDevice, write, fromDevice, floatsFromDevice, intsFromDevice } = memory;

if (path) check(metal.psi_open!("", 0));
