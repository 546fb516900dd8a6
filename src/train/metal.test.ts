/** The trainer on the stand-in for Metal: the CPU's losses, and the same bits each time. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import { metalStandin } from "../backends/testing/metal_library.ts";
import { type Windows, windowsOf } from "../data/batches.ts";
import { referenceCorpus } from "../data/reference_corpus.ts";
import type { Device } from "../runtime/device.ts";
import type { TrainedModel } from "./model.ts";
import { compactDecoder, compactDecoderPilot } from "./models/compact_decoder.ts";
import { gptOss } from "./models/gpt_oss.ts";
import { gpt2 } from "./models/gpt2.ts";
import { adamWGroups, muonGroups } from "./optimizer/config.ts";
import { Trainer, type TrainerConfig } from "./trainer.ts";

const models: Readonly<Record<string, TrainedModel>> = {
  compact: compactDecoder({
    ...compactDecoderPilot,
    ...{
      width: 16,
      layers: 1,
      heads: 2,
      headDim: 8,
      feedForward: 24,
      vocabularySize: 400,
      contextLength: 16,
    },
  }),
  gpt2: gpt2({ width: 16, layers: 2, heads: 2, vocabularySize: 400, contextLength: 16 }),
  gptOss: gptOss({
    ...{ width: 16, layers: 2, heads: 4, kvHeads: 2, headDim: 8, window: 5, experts: 4, expertsUsed: 2 },
    ...{ expertFeedForward: 24, vocabularySize: 400, contextLength: 16, ropeBase: 10000, balance: 0.01 },
    ropeScaling: {
      ...{ type: "yarn", factor: 4, originalContext: 16, betaFast: 32, betaSlow: 1, attentionFactor: 1 },
      round: false,
    },
  }),
};
const windows: Windows = windowsOf(
  referenceCorpus().train.map((s) => s.tokens),
  12,
  8,
);
const config: TrainerConfig = {
  ...{ seed: 7, sequences: 2, accumulation: 1, learningRate: 3e-3, clip: 1, precision: "f32" },
  recompute: false,
  groups: adamWGroups(0.01),
  schedule: { kind: "warmup_cosine", warmup_steps: 2, total_steps: 20, min_learning_rate: 3e-4 },
};

describe.skipIf(!metalStandin)("training on the stand-in for Metal", () => {
  let cpu: Device;
  let metal: Device;
  beforeAll(() => {
    cpu = openDevice("cpu", { threads: 1 });
    metal = openDevice("metal-standin");
  });
  afterAll(() => {
    cpu.close();
    metal.close();
  });

  /** Losses of `steps` steps and the bytes of the parameters after them. */
  function run(device: Device, model: TrainedModel, steps: number, changed: Partial<TrainerConfig> = {}) {
    using trainer = new Trainer(device, model, windows, { ...config, ...changed });
    const losses = Array.from({ length: steps }, () => trainer.step().loss);
    return { losses, bytes: device.download(trainer.parameters.values) };
  }

  test.each(Object.entries(models))(
    "20 steps of %s follow the CPU's loss, twice with the same bits",
    (_name, model) => {
      const [want, got, again] = [run(cpu, model, 20), run(metal, model, 20), run(metal, model, 20)];
      for (const [i, loss] of got.losses.entries())
        expect(Math.abs(loss - want.losses[i]!)).toBeLessThan(1e-3);
      expect(got.losses.at(-1)!).toBeLessThan(got.losses[0]! - 0.1);
      expect(again.bytes).toEqual(got.bytes);
    },
    120_000,
  );

  test("Muon, bf16 and blocks that are run again follow it too", () => {
    for (const changed of [
      { groups: muonGroups(5) },
      { precision: "bf16" as const },
      { recompute: true, clip: Number.POSITIVE_INFINITY },
    ]) {
      const [want, got] = [run(cpu, models.gpt2!, 4, changed), run(metal, models.gpt2!, 4, changed)];
      for (const [i, loss] of got.losses.entries())
        expect(Math.abs(loss - want.losses[i]!)).toBeLessThan(1e-3);
    }
  }, 120_000);
});
