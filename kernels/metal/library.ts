/**
 * The Metal library for the tests of this folder: the stand-in with checks, built if stale, or another one where
 * PSIONIC_METAL_LIBRARY names it (a real one on a Mac). Data moves by `onDevice` and `fromDevice`.
 */
import { dlopen, type FFIFunction, type Pointer } from "bun:ffi";
import { join } from "node:path";
import { symbolTable } from "../../ffi/load.ts";
import { buildMetalStandin, standinMissing } from "../build_metal.ts";

const named = process.env.PSIONIC_METAL_LIBRARY;
const folder = join(import.meta.dir, "..", "..", ".cache", "native");

/** Path of the library; undefined where nothing can run Metal kernels. */
export const path: string | undefined =
  named ?? (standinMissing() ? undefined : await buildMetalStandin(folder));
if (!path) console.warn(`skipping tests of the Metal kernels: ${standinMissing()}`);

/** Whether kernels run on fibers of the CPU: sizes stay small then. */
export const onFibers: boolean = !named || named.includes("standin") || named.includes("checked");

export type Call = (...args: (number | Pointer | ArrayBufferView | string | null)[]) => number;

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

/** Throws with the library's words where a call failed. */
export function check(status: number): void {
  if (status !== 0) throw new Error(located(String((metal.psi_last_error as unknown as () => string)())));
}

if (path) check(metal.psi_open!("", 0));

/** Device memory of at least `bytes`, zero-filled, good until the process ends. */
export function deviceBytes(bytes: number): Pointer {
  const address = new BigUint64Array(new ArrayBuffer(8));
  check(metal.psi_alloc!(address, Math.max(bytes, 64)));
  return Number(address[0]) as Pointer;
}

/** A copy of host data in device memory of exactly its size. */
export function onDevice(data: ArrayBufferView): Pointer {
  const address = deviceBytes(data.byteLength);
  if (data.byteLength > 0) check(metal.psi_upload!(address, data, data.byteLength));
  return address;
}

/** Overwrites device memory at `address`. */
export function write(address: Pointer, data: ArrayBufferView): void {
  check(metal.psi_upload!(address, data, data.byteLength));
}

/** A copy of `bytes` of device memory; waits for all kernels before it, and throws what went wrong in them. */
export function fromDevice(address: Pointer, bytes: number): Uint8Array {
  const out = new Uint8Array(new ArrayBuffer(Math.max(bytes, 2048)), 0, bytes);
  check(metal.psi_download!(out, address, bytes));
  return out;
}

export function floatsFromDevice(address: Pointer, count: number): Float32Array {
  const bytes = fromDevice(address, count * 4);
  return new Float32Array(bytes.buffer, 0, count);
}

export function intsFromDevice(address: Pointer, count: number): Int32Array {
  const bytes = fromDevice(address, count * 4);
  return new Int32Array(bytes.buffer, 0, count);
}
