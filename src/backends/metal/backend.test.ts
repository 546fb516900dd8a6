import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Device } from "../../runtime/device.ts";
import { add, embedding } from "../../runtime/functions.ts";
import { replay } from "../../runtime/replay.ts";
import { makeTensor } from "../../runtime/tensor.ts";
import { mapFile, openDevice } from "../index.ts";
import { expectMemory } from "../testing/memory_case.ts";
import { metalStandin } from "../testing/metal_library.ts";

const root = join(import.meta.dir, "../../..");
const floats = (...values: number[]): Float32Array => Float32Array.from(values);

describe.skipIf(!metalStandin)("the Metal backend on its stand-in", () => {
  let device: Device;
  beforeAll(() => {
    device = openDevice("metal-standin");
  });
  afterAll(() => device.close());

  test("says what it is, and never that it is metal", () => {
    expect(device.name).toBe("metal-standin");
    expect(device.backend.info()).toMatchObject({
      device: "CPU stand-in",
      gpu_family: "apple7",
      unified_memory: 1,
      residency_sets: 1,
    });
  });

  test("memory starts as zeros, keeps what is written and is copied; its size is said", () => {
    expectMemory(device);
  });

  test("what is written after a call is not what the call sees", () => {
    const [x, y] = [device.empty("f32", [4]), device.empty("f32", [4])];
    device.upload(x, floats(1, 2, 3, 4));
    add(x, x, y);
    device.upload(x, floats(0, 0, 0, 0));
    expect(device.downloadF32(y)).toEqual(floats(2, 4, 6, 8));
    device.free(x);
    device.free(y);
  });

  test("a step is replayed by being called again", () => {
    const [x, y] = [device.empty("f32", [4]), device.empty("f32", [4])];
    let calls = 0;
    for (let i = 1; i <= 4; i++) {
      device.upload(x, floats(i, i, i, i));
      replay(device, "doubled", () => {
        calls++;
        add(x, x, y);
      });
      expect(device.downloadF32(y)).toEqual(floats(2 * i, 2 * i, 2 * i, 2 * i));
    }
    expect(calls).toBe(4);
    device.free(x);
    device.free(y);
  });

  test("an allocation beyond the working set is an error that says how much there is", () => {
    expect(() => device.backend.allocate(1e13)).toThrow(
      /psi_alloc.*expected 10000000000000 bytes of Metal memory/,
    );
  });

  test.skipIf(!metalStandin)("weights are read where their file is mapped", () => {
    const folder = mkdtempSync(join(tmpdir(), "psionic-metal-"));
    const table = Float32Array.from({ length: 3 * 2048 }, (_, i) => i);
    writeFileSync(join(folder, "weights"), new Uint8Array(table.buffer));
    const mapping = mapFile(join(folder, "weights"));
    try {
      using _ = device.scope();
      device.backend.adopt!(mapping, mapping.address, mapping.bytes);
      const w = makeTensor(device, "weight", mapping.address, { dtype: "f32", shape: [3, 2048] });
      if (device.backend.supports("embedding")) {
        const rows = embedding(w, device.fromHost("i32", [2], Int32Array.from([2, 0])));
        expect(device.downloadF32(rows)).toEqual(floats(...table.subarray(4096), ...table.subarray(0, 2048)));
      }
      device.backend.disown!(mapping);
      const to = device.empty("f32", [4]);
      expect(() => device.backend.copy(to.address, mapping.address, 16)).toThrow("expected device memory");
      device.free(to);
    } finally {
      mapping.unmap();
      rmSync(folder, { recursive: true });
    }
  });

  test("one device at a time", () => {
    expect(() => openDevice("metal-standin")).toThrow("[psi_open]");
  });
});

describe("where Metal is not", () => {
  const run = (backend: string, env: Record<string, string>): string =>
    Bun.spawnSync([process.execPath, "src/main.ts", "run", "-p", "x", "--backend", backend], {
      cwd: root,
      env: { ...process.env, ...env },
    }).stderr.toString();

  test.skipIf(process.platform === "darwin")("the refusal names the reason", () => {
    expect(run("metal", {})).toContain("fallback_policy=refuse");
  });
  test.skipIf(!metalStandin)("a machine without a GPU is refused in Metal's words", () => {
    expect(run("metal-standin", { PSI_STANDIN_NONE: "1" })).toContain("expected a Metal device, got none");
  });
  test.skipIf(!metalStandin)("the stand-in's library under the name of Metal's is refused", () => {
    const code = 'require("./src/backends/index.ts").openDevice("metal")';
    const { stderr, exitCode } = Bun.spawnSync([process.execPath, "-e", code], {
      cwd: root,
      env: { ...process.env, PSIONIC_METAL_LIBRARY: metalStandin! },
    });
    expect(stderr.toString()).toContain("expected a library of metal, got one of metal-standin at ");
    expect(exitCode).not.toBe(0);
  });
  test("without a library the error says where it was looked for", () => {
    const text = run("metal-standin", { PSIONIC_METAL_STANDIN_LIBRARY: "/nowhere/lib.so" });
    expect(text).toContain("expected the metal-standin kernel library at /nowhere/lib.so");
  });
});
