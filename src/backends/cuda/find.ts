import { existsSync } from "node:fs";
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
  const devices: DeviceInfo[] = [];
  try {
    const library = kernelLibrary("cuda").path;
    try {
      for (let number = 0; number < most; number++) devices.push(infoOf(number));
    } catch (error) {
      // past the last device psi_open says so
      if (devices.length === 0) return { hardware, library, devices, reason: textOf(error) };
    }
    return { hardware, library, devices };
  } catch (error) {
    return { hardware, devices, reason: textOf(error) };
  }
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
