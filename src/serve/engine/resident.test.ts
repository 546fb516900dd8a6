/** The memory plan against what a process then holds, and that requests leave nothing behind. */
import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { openDevice } from "../../backends/index.ts";
import { openModelFiles } from "../../models/files/source.ts";
import { loadModel } from "../../models/registry.ts";
import { ModelExecutor } from "./executor.ts";
import { planModel } from "./model_plan.ts";
import type { Filled, Served, Soaked } from "./testing/resident.ts";

const modelPath = join(import.meta.dir, "../../../fixtures/docs-oss-13m-mxfp4.gguf");
const program = join(import.meta.dir, "../../../dist/psionic");
const mib = 2 ** 20;
/** What a process may hold beside weights and caches. */
const besidePlan = 150 * mib;

const mebibytes = (bytes: number): string => (bytes / mib).toFixed(0);

async function inProcess<T>(...args: string[]): Promise<T> {
  const script = join(import.meta.dir, "testing", "resident.ts");
  const child = Bun.spawn([process.execPath, script, ...args], { stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`expected resident.ts to end well, got exit code ${code}: ${err}`);
  return JSON.parse(out) as T;
}

test("weights and caches take what the plan says", () => {
  const files = openModelFiles(modelPath);
  for (const options of [
    { contextLength: 512 },
    { contextLength: 4096, slots: 3, cacheType: "q8_0" },
  ] as const) {
    const plan = planModel(files, options);
    const device = openDevice("cpu", {});
    const model = loadModel(device, files);
    const weights = device.live().bytes;
    const executor = new ModelExecutor(device, model, plan.groups, plan.cacheType);
    const caches = device.live().bytes - weights;
    executor.free();
    model.free();
    device.close();
    expect(Math.abs(weights / plan.memory.weightBytes - 1)).toBeLessThan(0.05);
    expect(Math.abs(caches / plan.memory.cacheBytes - 1)).toBeLessThan(0.05);
  }
});

test.skipIf(process.platform !== "linux")(
  "a process with full caches holds the plan and little more",
  async () => {
    const { plan, runtime, filled } = await inProcess<Filled>("fill");
    expect(filled).toBeLessThan(plan.weightBytes + plan.cacheBytes + besidePlan);
    // the heap of the engine's thread grows by some 10 MB beside the plan
    expect(filled - runtime).toBeLessThan(plan.totalBytes + 40 * mib);
    // and the caches were really filled; not against what was held before, of which a collection may give 10 MB back
    expect(filled - runtime).toBeGreaterThan(0.85 * (plan.weightBytes + plan.cacheBytes));
  },
  30_000,
);

// The executable, since sources that are compiled as they are loaded hold some 15 MiB more.
test.skipIf(process.platform !== "linux" || !existsSync(program))(
  "a server that has been busy holds what the plan and the process line say, within 5 %",
  async () => {
    const plan = planModel(openModelFiles(modelPath), {}).memory;
    const expected = plan.totalBytes + plan.processBytes;
    const { ready, busy } = await inProcess<Served>("serve", "900", program);
    console.log(
      `${mebibytes(busy)} of ${mebibytes(expected)} MiB, ${mebibytes(ready)} before the first request`,
    );
    expect(Math.abs(busy / expected - 1)).toBeLessThan(0.05);
    expect(busy).toBeLessThan(plan.weightBytes + plan.cacheBytes + besidePlan);
  },
  90_000,
);

test.skipIf(process.platform !== "linux")(
  "2,000 requests leave memory as it was after 200",
  async () => {
    const { early, late } = await inProcess<Soaked>("requests", "2000");
    expect(early).toBeGreaterThan(0);
    expect(late - early).toBeLessThan(16 * mib);
  },
  60_000,
);
