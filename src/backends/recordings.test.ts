import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Device } from "../runtime/device.ts";
import { add } from "../runtime/functions.ts";
import { replay } from "../runtime/replay.ts";
import { openDevice } from "./index.ts";
import { cudaLibrary } from "./testing/cuda_library.ts";

const floats = (...values: number[]): Float32Array => Float32Array.from(values);
const backends = cudaLibrary ? (["cpu", "cuda"] as const) : (["cpu"] as const);

describe.each(backends)("recordings of the %s backend", (name) => {
  let device: Device;
  beforeAll(() => {
    device = openDevice(name);
  });
  afterAll(() => device.close());

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
});
