/** The recipe's steps on CUDA, its kernels on fibers where there is no device, against the CPU. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { openDevice } from "../../backends/index.ts";
import { cudaLibrary } from "../../backends/testing/cuda_library.ts";
import type { Windows } from "../../data/batches.ts";
import type { Device } from "../../runtime/device.ts";
import { gptOss } from "../models/gpt_oss.ts";
import { adamWGroups } from "../optimizer/config.ts";
import { Trainer } from "../trainer.ts";
import { formatOf } from "./model.ts";

setDefaultTimeout(60_000);

const model = gptOss({
  ...{ width: 32, layers: 2, heads: 2, kvHeads: 1, headDim: 32, window: 4, experts: 2, expertsUsed: 1 },
  ...{ expertFeedForward: 32, vocabularySize: 64, contextLength: 16, ropeBase: 10000, balance: 0.01 },
  ropeScaling: { type: "none" },
});

/** Two documents in each window, the first half of each without targets. */
const count = 64;
const windows: Windows = {
  tokens: Int32Array.from({ length: count + 1 }, (_, i) => (i * 7 + (i % 5)) % 64),
  length: 16,
  starts: Uint32Array.of(0, 16, 32, 48),
  documents: Uint32Array.from({ length: count + 1 }, (_, i) => Math.floor(i / 8) * 8),
  counted: Uint8Array.from({ length: count + 1 }, (_, i) => Number(i % 8 >= 4)),
};

function run(device: Device, precision: "f32" | "bf16") {
  using trainer = new Trainer(device, model, windows, {
    ...{ seed: 3, sequences: 2, accumulation: 1, learningRate: 1e-2, clip: 1, recompute: false, precision },
    groups: adamWGroups(0),
    schedule: { kind: "rise_and_fall", total_steps: 4, budget_ms: 0, warmup_steps: 1, fall_share: 0.5 },
    rounding: { from: 0.5, formatOf },
  });
  const losses = Array.from({ length: 4 }, () => trainer.step().loss);
  return { losses, seen: device.download(trainer.parameters.weight("model.layers.0.mlp.experts.up_proj")) };
}

test.skipIf(!cudaLibrary)("losses are the CPU's before the finish and in it, twice the same", () => {
  const [cuda, cpu] = [openDevice("cuda"), openDevice("cpu", { threads: 1 })];
  for (const [precision, tolerance] of [
    ["f32", 2e-3],
    ["bf16", 3e-2],
  ] as const) {
    const got = run(cuda, precision);
    const want = run(cpu, "f32");
    for (const [i, loss] of got.losses.entries())
      expect(Math.abs(loss - want.losses[i]!)).toBeLessThan(tolerance);
    expect(run(cuda, precision)).toEqual(got);
  }
  cuda.close();
  cpu.close();
});
