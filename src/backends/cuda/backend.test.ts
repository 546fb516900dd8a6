import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Device } from "../../runtime/device.ts";
import { add } from "../../runtime/functions.ts";
import { replay } from "../../runtime/replay.ts";
import { openDevice } from "../index.ts";
import { cudaLibrary } from "../testing/cuda_library.ts";

describe.skipIf(!cudaLibrary)("the CUDA backend", () => {
  let device: Device;
  beforeAll(() => {
    device = openDevice("cuda");
  });
  afterAll(() => device.close());
  const floats = (...values: number[]) => Float32Array.from(values);

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

  test("a step runs, is recorded, and is launched, each time with what lies at its addresses", () => {
    const [x, y] = [device.empty("f32", [4]), device.empty("f32", [4])];
    let calls = 0;
    const step = () => {
      calls++;
      add(x, x, y);
    };
    for (let i = 1; i <= 5; i++) {
      device.upload(x, floats(i, 2 * i, 3 * i, 4 * i));
      replay(device, "doubled", step);
      expect(device.downloadF32(y)).toEqual(floats(2 * i, 4 * i, 6 * i, 8 * i));
    }
    expect(calls).toBe(2);
    device.backend.forget("doubled");
    replay(device, "doubled", step);
    expect(calls).toBe(3);
    device.free(x);
    device.free(y);
  });

  test("what cannot be recorded is refused by name, and recording goes on working", () => {
    const x = device.empty("f32", [4]);
    const forbidden: readonly (readonly [string, () => unknown])[] = [
      ["allocation", () => device.empty("f32", [8])],
      ["copy from the host", () => device.upload(x, floats(1, 2, 3, 4))],
      ["copy to the host", () => device.download(x)],
      ["synchronisation", () => device.backend.synchronize()],
    ];
    for (const [what, act] of forbidden) {
      let runs = 0;
      const step = () => {
        add(x, x, x);
        if (++runs > 1) act();
      };
      replay(device, what, step);
      expect(() => replay(device, what, step)).toThrow(
        `[replay] expected no ${what} while ${what} is recorded, got one after add`,
      );
      device.backend.forget(what);
    }
    device.upload(x, floats(1, 1, 1, 1));
    for (let i = 0; i < 3; i++) replay(device, "after", () => add(x, x, x));
    expect(device.downloadF32(x)).toEqual(floats(8, 8, 8, 8));
    device.free(x);
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
