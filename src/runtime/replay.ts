import type { Device } from "./device.ts";

/**
 * Runs a step that will be run again under the same key (model, batch bucket, cache address, adapter revision). A
 * backend with capture launches its recording from the third call on; one without calls the step again.
 */
export function replay(device: Device, key: string, step: () => void): void {
  device.backend.replay(key, step);
}
