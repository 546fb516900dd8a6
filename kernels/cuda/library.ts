/**
 * The CUDA library for the tests of this folder: the fiber stand-in, built if stale, or a real one where
 * PSIONIC_CUDA_LIBRARY names it. Tests move data only by `onDevice` and `fromDevice`, so that they run on both.
 */
import { dlopen, type FFIFunction } from "bun:ffi";
import { join } from "node:path";
import { symbolTable } from "../../ffi/load.ts";
import { buildCudaStandin } from "../build_cuda.ts";
import { type Call, type DeviceMemory, deviceMemory } from "../device_memory.ts";

const named = process.env.PSIONIC_CUDA_LIBRARY;
const path = named ?? (await buildCudaStandin(join(import.meta.dir, "..", "..", ".cache", "native")));

/** Whether the kernels run on fibers of the CPU: sizes stay small then. */
export const onFibers = path.includes("standin");

const table: Record<string, FFIFunction> = symbolTable("cuda");
export const cuda = dlopen(path, table).symbols as unknown as Record<string, Call>;

export type { Call };
export const memory: DeviceMemory = deviceMemory(cuda);
export const { check, deviceBytes, onDevice, write, fromDevice, floatsFromDevice, intsFromDevice } = memory;

check(cuda.psi_open!("", 0));
