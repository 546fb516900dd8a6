import { Device } from "../runtime/device.ts";
import { type CpuOptions, cpuBackend } from "./cpu/backend.ts";
import { type CudaOptions, cudaBackend } from "./cuda/backend.ts";
import { type MetaOptions, metaBackend } from "./meta/backend.ts";
import { metalBackend } from "./metal/backend.ts";

export type { CpuOptions } from "./cpu/backend.ts";
export { allocateHost, type HostMemory } from "./cpu/host_memory.ts";
export { type MappedFile, mapFile } from "./cpu/mapping.ts";
export { Cublaslt, cublasltLibraryVariable, type ProductShape } from "./cuda/cublaslt.ts";
export { DeviceGroup, makeGroupId, ncclVariable } from "./cuda/device_group.ts";
export { type CudaFindings, findCuda, hasNvidiaHardware } from "./cuda/find.ts";
export {
  fasterShare,
  isFaster,
  type MeasuredProduct,
  measureProducts,
  Operands,
} from "./cuda/measure_products.ts";
export { copyLibrary, kernelLibraryPath, useLibrary } from "./library.ts";
export { findMetal, type MetalFindings } from "./metal/find.ts";
export { measureRoofline, measureTensorCores, type Roofline } from "./roofline.ts";

type DeviceOptions = {
  readonly cpu: CpuOptions;
  readonly cuda: CudaOptions;
  readonly metal: Record<string, never>;
  readonly "metal-standin": Record<string, never>;
  readonly meta: MetaOptions;
};

/** Opens a device; the caller closes it. */
export function openDevice<N extends keyof DeviceOptions>(name: N, options?: DeviceOptions[N]): Device;
export function openDevice(
  name: keyof DeviceOptions,
  options: CpuOptions & CudaOptions & MetaOptions = {},
): Device {
  if (name === "cpu") return new Device(cpuBackend(options));
  if (name === "cuda") return new Device(cudaBackend(options));
  return new Device(name === "meta" ? metaBackend(options) : metalBackend(name));
}
