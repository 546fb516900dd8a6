/** Training on Metal's kernels, which the stand-in runs, against the CPU. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import { kernelLibrary } from "../backends/library.ts";
import { metalStandin } from "../backends/testing/metal_library.ts";
import { type Windows, windowsOf } from "../data/batches.ts";
import { referenceCorpus } from "../data/reference_corpus.ts";
import { trainingOps } from "../ir/ops/training.ts";
import type { Device } from "../runtime/device.ts";
import type { TrainedModel } from "./model.ts";
import { compactDecoder, compactDecoderPilot } from "./models/compact_decoder.ts";
import { golf } from "./models/golf.ts";
import { gptOss } from "./models/gpt_oss.ts";
import { gpt2 } from "./models/gpt2.ts";
import { adamWGroups, muonGroups } from "./optimizer/config.ts";
import { Trainer, type TrainerConfig } from "./trainer.ts";

// a busy machine runs fibers at a tenth of their speed
setDefaultTimeout(120_000);

const tiny = {
  compact: compactDecoder({
    ...{ ...compactDecoderPilot, width: 32, layers: 1, heads: 2, headDim: 16, feedForward: 48 },
    ...{ vocabularySize: 400, contextLength: 16 },
  }),
  gpt2: gpt2({ width: 32, layers: 1, heads: 2, vocabularySize: 400, contextLength: 16 }),
  gptOss: gptOss({
    ...{ width: 32, layers: 2, heads: 4, kvHeads: 2, headDim: 8, window: 7, experts: 4, expertsUsed: 2 },
    ...{ expertFeedForward: 24, vocabularySize: 400, contextLength: 16, ropeBase: 10000, balance: 0.01 },
    ropeScaling: { type: "none" },
  }),
  golf: golf({
    ...{ width: 32, layers: 3, heads: 4, kvHeads: 2, headDim: 8, feedForwardFactor: 2 },
    ...{ vocabularySize: 400, contextLength: 16, eps: 2 ** -23 },
  }),
} as const;

const windows: Windows = windowsOf(
  referenceCorpus().train.map((s) => s.tokens),
  8,
  8,
);

const config: TrainerConfig = {
  ...({ seed: 7, sequences: 2, accumulation: 1, learningRate: 3e-3, clip: 1 } as const),
  ...({ precision: "f32", recompute: false } as const),
  groups: adamWGroups(0.01),
  schedule: { kind: "warmup_cosine", warmup_steps: 2, total_steps: 20, min_learning_rate: 3e-4 },
};

/** Losses of a step: sums in another order, and what twenty steps make of it. */
const tolerance = 1e-3;

function run(device: Device, model: TrainedModel, steps: number, changed: Partial<TrainerConfig> = {}) {
  using trainer = new Trainer(device, model, windows, { ...config, ...changed });
  const records = Array.from({ length: steps }, () => trainer.step());
  return { losses: records.map((r) => r.loss), bytes: device.download(trainer.parameters.values) };
}

/** Ops of training that the library refuses (docs/metal.md): without them nothing trains. */
const missing = metalStandin
  ? trainingOps.filter(({ name, backends }) => {
      const wanted = !backends || backends.includes("metal");
      return wanted && !kernelLibrary("metal-standin").functions.has(`psi_${name}`);
    })
  : [];
if (missing.length > 0) {
  console.warn(`skipping training on Metal's kernels: no ${missing.map(({ name }) => name).join(", ")}`);
}

describe.skipIf(!metalStandin || missing.length > 0)("training on Metal's kernels", () => {
  let metal: Device;
  let cpu: Device;
  beforeAll(() => {
    metal = openDevice("metal-standin");
    cpu = openDevice("cpu", { threads: 1 });
  });
  afterAll(() => {
    metal.close();
    cpu.close();
  });

  function expectSameLosses(
    model: TrainedModel,
    steps: number,
    changed: Partial<TrainerConfig> = {},
  ): number[] {
    const [got, want] = [run(metal, model, steps, changed), run(cpu, model, steps, changed)];
    for (const [i, loss] of got.losses.entries()) {
      expect(Math.abs(loss - want.losses[i]!)).toBeLessThan(tolerance);
    }
    expect(metal.live()).toEqual({ tensors: 0, bytes: 0, scopes: 0 });
    return got.losses;
  }

  test("twenty steps have the CPU's losses, and they fall", () => {
    const losses = expectSameLosses(tiny.compact, 20);
    expect(losses.at(-1)!).toBeLessThan(losses[0]! - 0.3);
  });

  test.each(["gpt2", "gptOss", "golf"] as const)("%s: the first steps have the CPU's losses", (name) => {
    expectSameLosses(tiny[name], 3, name === "golf" ? { groups: muonGroups(5) } : {});
  });

  test("twice the same bits, also where blocks are run again", () => {
    const once = run(metal, tiny.compact, 2);
    expect(run(metal, tiny.compact, 2).bytes).toEqual(once.bytes);
    expect(run(metal, tiny.compact, 2, { recompute: true }).bytes).toEqual(once.bytes);
  });
});
