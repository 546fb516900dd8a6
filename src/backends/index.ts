import { Device } from "../runtime/device.ts";
import { type CpuOptions, cpuBackend } from "./cpu/backend.ts";
import { metaBackend } from "./meta/backend.ts";

export type { CpuOptions } from "./cpu/backend.ts";
export { type MappedFile, mapFile } from "./cpu/mapping.ts";
export { measureRoofline, type Roofline } from "./cpu/roofline.ts";

/** Opens a device; the caller closes it. */
export function openDevice(name: "cpu", options?: CpuOptions): Device;
export function openDevice(name: "meta"): Device;
export function openDevice(name: "cpu" | "meta", options: CpuOptions = {}): Device {
  return new Device(name === "cpu" ? cpuBackend(options) : metaBackend());
}
