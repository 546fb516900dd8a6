/** The shim's memory and command buffers on a device with little memory, in a process of its own. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { path as cpuPath } from "../cpu/library.ts";
import {
  check,
  deviceBytes,
  floatsFromDevice,
  fromDevice,
  metal,
  onDevice,
  onFibers,
  path,
} from "./library.ts";

/** Runs a module of test code with a small device: what it prints. */
async function onSmallDevice(code: string, environment: Record<string, string> = {}): Promise<string> {
  const here = (file: string): string => JSON.stringify(join(import.meta.dir, file));
  const source = [
    `import { metal, check, deviceBytes, fromDevice, floatsFromDevice } from ${here("library.ts")};`,
    `import { native, check as checkCpu } from ${here("../cpu/library.ts")};`,
    "const said = (act) => { try { act(); return 'done'; } catch (e) { return e.message; } };",
    code,
  ].join("\n");
  const child = Bun.spawn([process.execPath, "-e", source], {
    ...{ stdout: "pipe", stderr: "inherit", cwd: join(import.meta.dir, "..", "..") },
    // the libraries that are open here, which somebody may be building anew
    env: {
      ...process.env,
      PSIONIC_METAL_LIBRARY: path,
      PSIONIC_CPU_LIBRARY: cpuPath,
      PSI_STANDIN_MEMORY: String(4 << 20),
      PSI_STANDIN_BUFFER: String(256 << 10),
      ...environment,
    },
  });
  return new Response(child.stdout).text();
}

/** What psi_info says, a line each. */
function info(): string {
  const text = new Uint8Array(4096);
  check(metal.psi_info!(text, text.length));
  return new TextDecoder().decode(text.subarray(0, text.indexOf(0)));
}

/** Command buffers that were committed up to now. */
const commandBuffers = (): number => Number(/^command_buffers=(\d+)$/m.exec(info())?.[1]);

describe.skipIf(!path)("the Metal shim", () => {
  test("says what the device is", () => {
    const facts = info();
    for (const key of [
      "gpu_family",
      "metal",
      "unified_memory",
      "memory_bytes",
      "largest_buffer_bytes",
      "residency_sets",
    ]) {
      expect(facts).toContain(`\n${key}=`);
    }
    expect(() => check(metal.psi_info!(new Uint8Array(8), 0))).toThrow(/room for a text/);
  });

  test("launches see what those before them wrote, in one command buffer", () => {
    const [x, y] = [onDevice(Float32Array.of(1, 2, 3, 4)), deviceBytes(64)];
    const before = commandBuffers();
    for (let i = 0; i < 10; i++) check(metal.psi_add!(i === 0 ? y : x, i === 0 ? x : y, x, 4));
    // y = 2x, then x += y nine times
    expect([...floatsFromDevice(x, 4)]).toEqual([19, 38, 57, 76]);
    expect(commandBuffers() - before).toBe(1);
  });

  test.skipIf(!onFibers)("much work is several command buffers, more than wait at a time, in order", () => {
    const count = 1 << 10; // the stand-in commits after 2^16 multiply-adds, 16 a thread
    const [x, y] = [onDevice(new Float32Array(count).fill(1)), onDevice(new Float32Array(count).fill(2))];
    const before = commandBuffers();
    for (let i = 0; i < 50; i++) check(metal.psi_add!(y, y, x, count));
    expect(commandBuffers() - before).toBe(12);
    expect(floatsFromDevice(y, count).every((v) => v === 52)).toBe(true);
    expect(commandBuffers() - before).toBe(13);
    fromDevice(y, 4);
    expect(commandBuffers() - before).toBe(13); // nothing was left to do
  });

  test.skipIf(!onFibers)("memory that is not there is refused with what is taken", async () => {
    const printed = await onSmallDevice(
      "console.log(said(() => deviceBytes(300 << 10)));" +
        "console.log(said(() => { for (let i = 0; i < 40; i++) deviceBytes(200 << 10); }));",
    );
    const [large, many] = printed.split("\n");
    expect(large).toMatch(/expected 307200 bytes of Metal memory, got none: .* a buffer has at most 262144/);
    expect(many).toMatch(/expected 204800 bytes of Metal memory, got none: \d+ of 4194304 are taken/);
  });

  test.skipIf(!onFibers)("a mapped file larger than a buffer is split, also inside of a tensor", async () => {
    const printed = await onSmallDevice(`
      import { tmpdir } from "node:os";
      import { rmSync } from "node:fs";
      const file = tmpdir() + "/psionic-adopt-" + process.pid;
      const data = Float32Array.from({ length: 200_000 }, (_, i) => i);
      await Bun.write(file, data);
      const out = new Float64Array(2);
      checkCpu(native.psi_map(out, out.subarray(1), Buffer.from(file + "\\0")));
      rmSync(file);
      const [base, bytes] = out;
      const row = (from, count) => {
        const y = deviceBytes(4 * count);
        check(metal.psi_adopt(base, bytes, base + 4 * from, 4 * count));
        check(metal.psi_copy(y, base + 4 * from, 4 * count));
        return floatsFromDevice(y, count).every((v, i) => v === from + i);
      };
      console.log(row(0, 1000), row(65_000, 4000), row(100, 60_000), row(196_000, 4000));
      console.log(said(() => row(0, 100_000)));
      console.log(said(() => check(metal.psi_adopt(base, bytes, base + bytes - 4, 8))));
      check(metal.psi_disown(base));
      console.log(said(() => check(metal.psi_copy(deviceBytes(64), base, 64))));
    `);
    const [rows, large, outside, gone] = printed.split("\n");
    expect(rows).toBe("true true true true");
    expect(large).toMatch(/psi_(alloc|adopt)/);
    expect(outside).toContain("expected bytes inside of a mapping");
    expect(gone).toContain("expected device memory");
  });

  test.skipIf(!onFibers)("a device that gives no views of mapped files is refused", async () => {
    const code = `
      const out = new Float64Array(2);
      checkCpu(native.psi_map(out, out.subarray(1), Buffer.from(${JSON.stringify(`${import.meta.path}\0`)})));
      console.log(said(() => check(metal.psi_adopt(out[0], out[1], out[0], 8))));`;
    const printed = await onSmallDevice(code, { PSI_STANDIN_NO_VIEWS: "1" });
    expect(printed).toMatch(/psi_adopt.* expected Metal to take \d+ bytes of a mapped file, got 0/);
  });

  test("a number that is no device, and a second opening, are refused", () => {
    expect(() => check(metal.psi_open!("", 0))).toThrow(/expected a closed device/);
  });

  test("launches are measured by kernel, each in a command buffer of its own", () => {
    const [x, y] = [onDevice(new Float32Array(64)), deviceBytes(256)];
    const told = (): string[][] => {
      const text = new Uint8Array(4096);
      check(metal.psi_launch_times!(text, text.length));
      const lines = new TextDecoder().decode(text.subarray(0, text.indexOf(0))).split("\n");
      return lines.slice(0, -1).map((line) => line.split("\t"));
    };
    check(metal.psi_measure_launches!(1));
    const before = commandBuffers();
    for (let i = 0; i < 3; i++) check(metal.psi_add!(y, x, x, 64));
    check(metal.psi_copy!(y, x, 256));
    const times = told();
    expect(commandBuffers()).toBe(before + 4);
    expect(times.map(([kernel, launches]) => [kernel, launches])).toEqual([
      ["add_f32", "3"],
      ["copy_16", "1"],
    ]);
    // "-" where the GPU does not tell
    for (const [, , seconds] of times) expect(seconds === "-" || Number(seconds) > 0).toBe(true);
    expect(() => check(metal.psi_launch_times!(new Uint8Array(16), 16))).toThrow(/room for 2 kernels/);
    check(metal.psi_measure_launches!(1));
    expect(told()).toEqual([]);
    check(metal.psi_measure_launches!(0));
    check(metal.psi_add!(y, x, x, 64));
    check(metal.psi_synchronize!());
    expect(told()).toEqual([]);
  });
});
