import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Device } from "../../runtime/device.ts";
import { openDevice } from "../index.ts";
import { cudaLibrary } from "../testing/cuda_library.ts";
import { expectMemory } from "../testing/memory_case.ts";

describe.skipIf(!cudaLibrary)("the CUDA backend", () => {
  let device: Device;
  beforeAll(() => {
    device = openDevice("cuda");
  });
  afterAll(() => device.close());

  test("says what it is", () => {
    expect(device.backend.info()).toMatchObject({ device: expect.any(String), compute: expect.any(String) });
  });

  test("memory starts as zeros, keeps what is written and is copied; its size is said", () => {
    expectMemory(device);
  });

  test("a fetch has what was there before later calls", () => {
    const { backend } = device;
    const address = backend.allocate(64);
    backend.write(address, Uint8Array.of(1, 2, 3, 4));
    const before = backend.fetch!(address, 4);
    backend.write(address, Uint8Array.of(5, 6, 7, 8));
    expect([...before()]).toEqual([1, 2, 3, 4]);
    expect([...backend.fetch!(address, 4)()]).toEqual([5, 6, 7, 8]);
    backend.release(address, 64);
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
