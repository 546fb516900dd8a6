/** The device that a lane's work runs on: its own backend, or the one that stands in for it where that is asked for. */
import { readFileSync } from "node:fs";
import { kernelLibraryPath, openDevice } from "../../backends/index.ts";
import { sha256 } from "../../core/digest.ts";
import { PsionicError } from "../../core/error.ts";
import type { Device } from "../../runtime/device.ts";
import { refuse } from "../contract.ts";
import { backendVariable } from "./lane_backend.ts";

/** Names the instructions that a lane's work on the processor takes, so that what an older one computed comes out again. */
const isaVariable = "PSIONIC_LANE_CPU_ISA";

/** Opens a backend by its name; `unsupported_topology` where this machine or this build has none. */
export function openLaneDevice(backend: string): Device {
  let device: Device;
  try {
    const isa = process.env[isaVariable];
    const options = backend === "cpu" && isa ? { isa } : {};
    device = (openDevice as (name: string, options?: object) => Device)(backend, options);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    return refuse("unsupported_topology", `${missing(backend)}: ${why}`, cause);
  }
  if (device.name === backend) return device;
  device.close();
  return refuse("unsupported_topology", `${missing(backend)} in this build`);
}

const missing = (backend: string): string =>
  `no ${backend} backend on this ${process.platform} machine (${Object.values(backendVariable).join(", ")} name another)`;

/** SHA-256 that says which kernels computed: of the library's bytes and what of it this machine takes. */
export function kernelDigest(device: Device): string {
  const path = kernelLibraryPath(device.name as Parameters<typeof kernelLibraryPath>[0]);
  const info = device.backend.info();
  const taken = ["isa", "compute"].flatMap((key) => info[key] ?? []);
  return sha256(`${sha256(readFileSync(path))}|${taken.join("|")}`);
}

/** Ends work as the contract has it: what a backend lacks is `unsupported_topology`. */
export function refuseUnsupported(cause: unknown, backend: string): never {
  if (cause instanceof PsionicError && cause.code === "unsupported" && cause.name !== "Refusal")
    return refuse("unsupported_topology", `${backend} cannot do this lane's work: ${cause.message}`, cause);
  throw cause;
}
