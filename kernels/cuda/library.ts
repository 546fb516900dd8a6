/**
 * The CUDA library for the tests of this folder: the fiber stand-in, built if stale, or a real one where
 * PSIONIC_CUDA_LIBRARY names it. Tests move data only by `onDevice` and `fromDevice`, so that they run on both.
 */
import { dlopen, type FFIFunction, type Pointer } from "bun:ffi";
import { join } from "node:path";
import { symbolTable } from "../../ffi/load.ts";
import { buildCudaStandin } from "../build_cuda.ts";

const named = process.env.PSIONIC_CUDA_LIBRARY;
const path = named ?? (await buildCudaStandin(join(import.meta.dir, "..", "..", ".cache", "native")));

/** Whether the kernels run on fibers of the CPU: sizes stay small then. */
export const onFibers = path.includes("standin");

export type Call = (...args: (number | Pointer | ArrayBufferView | string | null)[]) => number;

const table: Record<string, FFIFunction> = symbolTable("cuda");
const { symbols } = dlopen(path, table);
export const cuda = symbols as unknown as Record<string, Call>;

export function check(status: number): void {
  if (status !== 0) throw new Error(String((cuda.psi_last_error as unknown as () => string)()));
}

check(cuda.psi_open!("", 0));

/** Device memory of at least `bytes`, zero-filled, good until the process ends. */
export function deviceBytes(bytes: number): Pointer {
  const address = new BigUint64Array(new ArrayBuffer(8));
  check(cuda.psi_alloc!(address, Math.max(bytes, 64)));
  return Number(address[0]) as Pointer;
}

/** A copy of host data in device memory. */
export function onDevice(data: ArrayBufferView): Pointer {
  const address = deviceBytes(data.byteLength);
  if (data.byteLength > 0) check(cuda.psi_upload!(address, data, data.byteLength));
  return address;
}

/** Overwrites device memory at `address`. */
export function write(address: Pointer, data: ArrayBufferView): void {
  check(cuda.psi_upload!(address, data, data.byteLength));
}

/** A copy of `bytes` of device memory; waits for all kernels before it. */
export function fromDevice(address: Pointer, bytes: number): Uint8Array {
  const out = new Uint8Array(new ArrayBuffer(Math.max(bytes, 2048)), 0, bytes);
  check(cuda.psi_download!(out, address, bytes));
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
