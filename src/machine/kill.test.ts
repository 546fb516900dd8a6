/** Invocations killed at any moment: every file in the run root is whole, and the next invocation goes through. */
import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { actualLane } from "./contract.ts";
import { verified } from "./documents.ts";
import { jsonOf } from "./run_root.ts";
import { documents } from "./schemas.ts";
import { machineKills } from "./testing/kills.ts";
import { bound, Scene } from "./testing/scene.ts";

const main = join(import.meta.dir, "..", "main.ts");

function jsonFiles(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) return jsonFiles(path);
    return name.endsWith(".json") ? [path] : [];
  });
}

test("killed while it works", async () => {
  using scene = new Scene();
  const words = scene.write(scene.manifest("start", { coordination: bound }));
  const run = () =>
    Bun.spawn([process.execPath, main, "train", "manifest", ...words], {
      env: { ...process.env, ...scene.environment() },
      ...({ stdout: "ignore", stderr: "ignore" } as const),
    });
  const begun = performance.now();
  expect(await run().exited).toBe(0);
  const whole = performance.now() - begun;
  const files = jsonFiles(scene.root).length;
  for (const share of [0.5, 0.7, 0.8, 0.9, 0.95]) {
    const child = run();
    await Bun.sleep(whole * share);
    child.kill("SIGKILL");
    await child.exited;
    for (const path of jsonFiles(scene.root)) {
      const value = jsonOf(readFileSync(path), path) as { schema_version?: string };
      const doc = documents.get(value.schema_version ?? "");
      if (doc) verified(doc, value, path);
    }
  }
  const packet = scene.run("start", { coordination: bound });
  expect(packet.outcome).toBe("succeeded");
  expect(jsonFiles(scene.root).length).toBeGreaterThanOrEqual(files);
}, 60_000);

/** A share of what scripts/soak.sh does 200 times. */
test("workers and validators killed at random points: whole, nothing accepted is lost, the same work comes out", async () => {
  const { trials, killed } = await machineKills([actualLane.id], 4, 2);
  expect(trials).toBe(4);
  expect(killed).toBeGreaterThan(0);
}, 120_000);
