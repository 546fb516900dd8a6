import { expect, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import { Device, type RowCopies } from "../runtime/device.ts";
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
  const backend = {};
  const { keys } = makeCachePool({ name: "cuda", backend, empty } as unknown as Device, group, "fp8", 3);
  expect(keys).toMatchObject([{ dtype: "fp8", shape: [3, 32, 32] }]);
});

test("where a device copies rows, a page of all layers is rows of one stride: keys and values of each layer in turn", () => {
  const { backend } = openDevice("cpu", { threads: 1 });
  const group = { window: 0, layers: [0, 2], kvHeads: 2, headDim: 32 };
  const part = 3 * pageBytes(group, "f16");
  const rows = {} as RowCopies;
  const device = new Device({ ...backend, rows });
  const pool = makeCachePool(device, group, "f16", 3);
  const { address } = pool.memory[0]!;
  expect(pool.memory.map(tensorBytes)).toEqual([4 * part]);
  expect(pool.keys.map((t) => t.address)).toEqual([address, address + 2 * part]);
  expect(pool.values.map((t) => t.address)).toEqual([address + part, address + 3 * part]);
  freeCachePool(device, pool);
  expect(device.live().tensors).toBe(0);
  device.close();
});

test("elsewhere keys and values of each layer have memory of their own", () => {
  const device = openDevice("cpu", { threads: 1 });
  const group = { window: 0, layers: [0, 2], kvHeads: 2, headDim: 32 };
  const pool = makeCachePool(device, group, "f16", 3);
  expect(pool.memory.map(tensorBytes)).toEqual(Array(4).fill(3 * pageBytes(group, "f16")));
  expect(new Set([...pool.keys, ...pool.values])).toEqual(new Set(pool.memory));
  freeCachePool(device, pool);
  expect(device.live().tensors).toBe(0);
  device.close();
});
