import { expect, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import type { Device } from "../runtime/device.ts";
import { tensorBytes } from "../runtime/tensor.ts";
import { freeCachePool, makeCachePool, pageBytes } from "./cache.ts";

test("Metal is asked for no cache that its kernels do not have", () => {
  const group = { window: 0, layers: [0], kvHeads: 1, headDim: 32 };
  for (const name of ["metal", "metal-standin"]) {
    expect(() => makeCachePool({ name } as Device, group, "fp8", 1)).toThrow(
      "[cache] expected a cache type of Metal (f32, f16, bf16, q8_0), got fp8",
    );
  }
  const empty = (dtype: string, shape: readonly number[]) => ({ dtype, shape, address: 4096 });
  const { keys } = makeCachePool({ name: "cuda", empty } as unknown as Device, group, "fp8", 3);
  expect(keys).toMatchObject([{ dtype: "fp8", shape: [3, 32, 32] }]);
});

test("a page of all layers is rows of one stride: keys and values of each layer in turn", () => {
  const device = openDevice("cpu", { threads: 1 });
  const group = { window: 0, layers: [0, 2], kvHeads: 2, headDim: 32 };
  const pool = makeCachePool(device, group, "f16", 3);
  const part = 3 * pageBytes(group, "f16");
  const { address } = pool.memory;
  expect(pool.keys.map((t) => t.address)).toEqual([address, address + 2 * part]);
  expect(pool.values.map((t) => t.address)).toEqual([address + part, address + 3 * part]);
  expect(tensorBytes(pool.memory)).toBe(4 * part);
  freeCachePool(device, pool);
  expect(device.live().tensors).toBe(0);
  device.close();
});
