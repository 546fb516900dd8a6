/** The demo lane: its gradients are those of the definition, and its runs end verified. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDevice } from "../../backends/index.ts";
import { batchOf, windowsOf } from "../../data/batches.ts";
import { demoGradient, demoLoss, demoParts, initialDemoWeights } from "../../machine/lanes/demo_model.ts";
import { parameterCount } from "../model.ts";
import { part } from "../parameters.ts";
import { Trainer } from "../trainer.ts";
import { cs336A1Demo as lane } from "./cs336_a1_demo.ts";

const root = join(import.meta.dir, "..", "..", "..");
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "psionic-demo-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

test("loss and gradients are those of the definition by forward differences", () => {
  const { model, config } = lane.parts({ ...lane.defaults, sequences: 1 });
  expect(parameterCount(model)).toBe(1070);
  const device = openDevice("cpu", { threads: 1 });
  try {
    const tokens = [116, 104, 101];
    const windows = windowsOf([Int32Array.from(tokens)], 2, 1);
    using trainer = new Trainer(device, model, windows, { ...config, sequences: 1 }, "none");
    // weights as large as those after some steps, so that no gradient is nothing
    const weights = initialDemoWeights().map((w, i) => w * (1 + 5 * ((i * 7) % 11)));
    const parts = demoParts(weights);
    const { places, values, gradients } = trainer.parameters;
    for (const place of places)
      device.upload(part(values, place, place.spec.shape), parts.get(place.spec.name)!);
    trainer.parameters.refresh();
    trainer.parameters.clearGradients();
    const { loss } = trainer.accumulate(batchOf(windows, [0]), 1 / 2);
    const expected = demoLoss(weights, tokens);
    expect(loss).toBeCloseTo(expected, 5);
    const slopes = demoParts(demoGradient(weights, tokens, expected));
    for (const place of places) {
      const got = device.downloadF32(part(gradients, place, place.spec.shape));
      const wanted = slopes.get(place.spec.name)!;
      const size = Math.sqrt(wanted.reduce((sum, x) => sum + x * x, 0));
      const off = Math.sqrt(got.reduce((sum, x, i) => sum + (x - wanted[i]!) ** 2, 0));
      // forward differences of 5e-3 in f32 are right to a few percent
      expect(off).toBeLessThan(0.05 * size + 1e-3);
    }
  } finally {
    device.close();
  }
});

test("a run through scripts/TRAIN: started, shown, verified; rehearsed; damaged it is not", () => {
  const train = (...words: string[]) => {
    const done = Bun.spawnSync(
      ["bash", join(root, "scripts", "TRAIN"), "--lane", "cs336_a1_demo", ...words],
      {
        ...{ cwd: root, stdout: "pipe", stderr: "pipe", env: { ...process.env, PSIONIC_FROM_SOURCE: "1" } },
      },
    );
    return { code: done.exitCode, out: String(done.stdout), err: String(done.stderr) };
  };
  const [started, rehearsed] = [join(folder, "started"), join(folder, "rehearsed")];
  const common = ["--allow-dirty-tree", "--threads", "1"];
  expect(train("start", "--output-root", started, ...common).code).toBe(0);
  expect(train("status", "--run-root", started).out).toContain(
    "phase=training_complete\nlast_completed_step=4",
  );
  const verified = train("verify", "--run-root", started);
  expect([verified.out.split("\n")[0], verified.code]).toEqual(["status=verified", 0]);
  const rehearsal = train("rehearse-base-lane", "--output-root", rehearsed, ...common);
  expect(rehearsal.out).toContain("bit_equal_to_uninterrupted_run=true");
  expect(train("verify", "--run-root", rehearsed).out).toStartWith("status=verified\n");
  const tensors = join(started, "checkpoints/step-4/model.safetensors");
  const bytes = readFileSync(tensors);
  bytes[bytes.length - 1]! ^= 1;
  writeFileSync(tensors, bytes);
  const damaged = train("verify", "--run-root", started);
  expect([damaged.code, damaged.err]).toEqual([1, expect.stringContaining("checkpoint_accepted failed")]);
}, 60_000);
