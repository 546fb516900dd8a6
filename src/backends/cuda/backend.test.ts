import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Device } from "../../runtime/device.ts";
import { openDevice } from "../index.ts";
import { cudaLibrary } from "../testing/cuda_library.ts";

describe.skipIf(!cudaLibrary)("the CUDA backend", () => {
  let device: Device;
  beforeAll(() => {
    device = openDevice("cuda");
  });
  afterAll(() => device.close());

  test("says what it is, and how much memory it has", () => {
    expect(device.backend.info()).toMatchObject({ device: expect.any(String), compute: expect.any(String) });
    const { free, total } = device.backend.memory!();
    expect(free).toBeGreaterThan(0);
    expect(total).toBeGreaterThanOrEqual(free);
  });

  test("memory starts as zeros, keeps what is written and is copied", () => {
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
  });

  test("one device at a time, and its number is checked", () => {
    expect(() => openDevice("cuda")).toThrow("[psi_open]");
  });

  test("an allocation beyond its memory is an error that says how much there is", () => {
    expect(() => device.backend.allocate(1e14)).toThrow("psi_alloc");
  });
});

test("without a library the error says where it was looked for", () => {
  const { exitCode, stderr } = Bun.spawnSync(
    [process.execPath, "src/main.ts", "run", "-p", "x", "--backend", "cuda"],
    {
      cwd: `${import.meta.dir}/../../..`,
      env: { ...process.env, PSIONIC_CUDA_LIBRARY: "/nowhere/libpsionic_cuda.so" },
    },
  );
  expect(exitCode).toBe(1);
  expect(stderr.toString()).toContain("expected the cuda kernel library at /nowhere/libpsionic_cuda.so");
});
