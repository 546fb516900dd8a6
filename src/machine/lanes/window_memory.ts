/** Whether a window's steps fit into memory, asked before anything is put there. */
import type { Device } from "../../runtime/device.ts";
import { availableBytes } from "../../train/plan.ts";
import { refuse } from "../contract.ts";
import type { StepShapes } from "./window_plan.ts";

type Bytes = Pick<StepShapes, "stateBytes" | "stepBytes">;

/** Throws `unsupported_topology` where this machine has too little; before a device is opened. */
export function needHostMemory(bytes: Bytes, backend: string): void {
  if (backend === "cpu") needMemory(bytes, availableBytes(), "this machine");
}

/** Throws `unsupported_topology` where the device has memory of its own and too little of it. */
export function needDeviceMemory(bytes: Bytes, device: Device, backend: string): void {
  const memory = device.backend.memory?.();
  if (memory) needMemory(bytes, memory.free, `the ${backend} device`);
}

function needMemory({ stateBytes, stepBytes }: Bytes, available: number, where: string): void {
  const bytes = stateBytes + stepBytes;
  if (bytes <= available) return;
  refuse(
    "unsupported_topology",
    `the lane profile's training takes ${bytes} bytes of memory, ${where} has ${Math.floor(available)} left`,
  );
}
