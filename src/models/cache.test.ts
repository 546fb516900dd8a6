import { expect, test } from "bun:test";
import type { Device } from "../runtime/device.ts";
import { makeCachePool } from "./cache.ts";

test("Metal is asked for no cache that its kernels do not have", () => {
  const group = { window: 0, layers: [0], kvHeads: 1, headDim: 32 };
  for (const name of ["metal", "metal-standin"]) {
    expect(() => makeCachePool({ name } as Device, group, "fp8", 1)).toThrow(
      "[cache] expected a cache type of Metal (f32, f16, bf16, q8_0), got fp8",
    );
  }
  const empty = (dtype: string, shape: readonly number[]) => ({ dtype, shape });
  const { keys } = makeCachePool({ name: "cuda", empty } as unknown as Device, group, "fp8", 3);
  expect(keys).toMatchObject([{ dtype: "fp8", shape: [3, 32, 32] }]);
});
