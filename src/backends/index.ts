import { Device } from "../runtime/device.ts";
import { type CpuOptions, cpuBackend } from "./cpu/backend.ts";
import { type CudaOptions, cudaBackend } from "./cuda/backend.ts";
import { type MetaOptions, metaBackend } from "./meta/backend.ts";

export type { CpuOptions } from "./cpu/backend.ts";
export { allocateHost, type HostMemory } from "./cpu/host_memory.ts";
export { type MappedFile, mapFile } from "./cpu/mapping.ts";
export { type CudaFindings, findCuda, hasNvidiaHardware } from "./cuda/find.ts";
export { copyLibrary, kernelLibraryPath, useLibrary } from "./library.ts";
export { measureRoofline, type Roofline } from "./roofline.ts";

type DeviceOptions = { readonly cpu: CpuOptions; readonly cuda: CudaOptions; readonly meta: MetaOptions };

/** Opens a device; the caller closes it. */
export function openDevice<N extends keyof DeviceOptions>(name: N, options?: DeviceOptions[N]): Device;
export function openDevice(
  name: keyof DeviceOptions,
  options: CpuOptions & CudaOptions & MetaOptions = {},
): Device {
  if (name === "cpu") return new Device(cpuBackend(options));
  return new Device(name === "cuda" ? cudaBackend(options) : metaBackend(options));
}
