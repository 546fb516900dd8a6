import { expect } from "bun:test";
import type { Device } from "../../runtime/device.ts";

/** What memory of a device does, whatever backend it has: zeros at first, what was written then, and copies of it. */
export function expectMemory(device: Device): void {
  const [a, b] = [device.empty("f32", [100]), device.empty("f32", [100])];
  expect(device.downloadF32(a)).toEqual(new Float32Array(100));
  const data = Float32Array.from({ length: 100 }, (_, i) => i);
  device.upload(a, data);
  device.backend.copy(b.address, a.address, 400);
  expect(device.downloadF32(b)).toEqual(data);
  device.backend.synchronize();
  device.free(a);
  device.free(b);
  expect(device.live()).toEqual({ tensors: 0, bytes: 0, scopes: 0 });
  const { free, total } = device.backend.memory!();
  expect(free).toBeGreaterThan(0);
  expect(total).toBeGreaterThanOrEqual(free);
}
