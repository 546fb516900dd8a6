import { existsSync } from "node:fs";
import { PsionicError } from "../../core/error.ts";
import type { DeviceInfo } from "../../runtime/device.ts";
import { kernelLibrary } from "../library.ts";
import { cudaBackend } from "./backend.ts";

/** What there is of CUDA on this machine. */
export type CudaFindings = {
  /** Whether the system shows an NVIDIA device, with or without a driver that works. */
  readonly hardware: boolean;
  /** Path of the kernel library; absent when there is none, or it does not load. */
  readonly library?: string;
  /** Every device that opens. */
  readonly devices: readonly DeviceInfo[];
  /** Why others beside them do not. */
  readonly refused: readonly string[];
  /** Why there is no library, or no device. */
  readonly reason?: string;
};

const deviceNodes = ["/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"];
const mostDevices = 64;

/** Whether the system shows an NVIDIA device. */
export function hasNvidiaHardware(): boolean {
  return deviceNodes.some((node) => existsSync(node));
}

/** Opens the library and up to `most` devices, one after the other, and closes them again. */
export function findCuda(most = mostDevices): CudaFindings {
  const hardware = hasNvidiaHardware();
  try {
    const library = kernelLibrary("cuda").path;
    const { devices, refused } = probe(most, infoOf);
    if (devices.length > 0) return { hardware, library, devices, refused };
    return { hardware, library, devices, refused: [], reason: refused.join("; ") };
  } catch (error) {
    return { hardware, devices: [], refused: [], reason: textOf(error) };
  }
}

/** What opens of devices 0, 1, ..., and why others do not: an old card must not hide one behind it. */
export function probe(
  most: number,
  open: (number: number) => DeviceInfo,
): { readonly devices: readonly DeviceInfo[]; readonly refused: readonly string[] } {
  const devices: DeviceInfo[] = [];
  const refused: string[] = [];
  for (let number = 0; number < most; number++) {
    try {
      devices.push(open(number));
    } catch (error) {
      // past the last device psi_open says that there is none of that number, without a driver the same of each
      if (number > 0 && error instanceof PsionicError && error.code === "invalid_argument") break;
      if (refused.at(-1) === textOf(error)) break;
      refused.push(textOf(error));
    }
  }
  return { devices, refused };
}

function infoOf(number: number): DeviceInfo {
  const backend = cudaBackend({ number });
  try {
    return backend.info();
  } finally {
    backend.close();
  }
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
