import type { DeviceInfo } from "../../runtime/device.ts";
import { kernelLibrary } from "../library.ts";
import { metalBackend } from "./backend.ts";

/** What there is of Metal on this machine. */
export type MetalFindings = {
  /** Path of the kernel library; absent when there is none, or it does not load. */
  readonly library?: string;
  /** The GPU, if it opens. */
  readonly device?: DeviceInfo;
  /** Why there is no library, or no device. */
  readonly reason?: string;
};

/** Opens the GPU of a Mac and closes it again; elsewhere nothing is loaded. */
export function findMetal(platform: string = process.platform): MetalFindings {
  if (platform !== "darwin") return { reason: `${platform}, where there is no Metal` };
  try {
    const library = kernelLibrary("metal").path;
    try {
      const backend = metalBackend("metal");
      try {
        return { library, device: backend.info() };
      } finally {
        backend.close();
      }
    } catch (error) {
      return { library, reason: textOf(error) };
    }
  } catch (error) {
    return { reason: textOf(error) };
  }
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
