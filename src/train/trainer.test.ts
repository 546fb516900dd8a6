import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import { type Windows, windowsOf } from "../data/batches.ts";
import { referenceCorpus } from "../data/reference_corpus.ts";
import type { Device } from "../runtime/device.ts";
import type { TrainedModel } from "./model.ts";
import { parameterCount } from "./model.ts";
import { compactDecoder, compactDecoderInternal, compactDecoderPilot } from "./models/compact_decoder.ts";
import { golf, golfBaseline } from "./models/golf.ts";
import { gptOss } from "./models/gpt_oss.ts";
import { gpt2, gpt2Small } from "./models/gpt2.ts";
import { adamWGroups, muonGroups, type ParameterGroup } from "./optimizer/config.ts";
import { NotFiniteError, Trainer, type TrainerConfig } from "./trainer.ts";

let device: Device;
beforeAll(() => {
  device = openDevice("cpu", { threads: 2 });
});
afterAll(() => device.close());

const tiny = {
  compact: compactDecoder({
    ...compactDecoderPilot,
    width: 32,
    layers: 2,
    heads: 2,
    headDim: 16,
    feedForward: 48,
    vocabularySize: 400,
    contextLength: 32,
  }),
  gpt2: gpt2({ width: 32, layers: 2, heads: 2, vocabularySize: 400, contextLength: 32 }),
  gptOss: gptOss({
    ...{ width: 32, layers: 2, heads: 4, kvHeads: 2, headDim: 8, window: 7, experts: 4, expertsUsed: 2 },
    ...{ expertFeedForward: 24, vocabularySize: 400, contextLength: 32, ropeBase: 10000, balance: 0.01 },
    ropeScaling: {
      type: "yarn",
      factor: 4,
      originalContext: 16,
      betaFast: 32,
      betaSlow: 1,
      attentionFactor: 1,
      round: false,
    },
  }),
  golf: golf({
    ...{ width: 32, layers: 5, heads: 4, kvHeads: 2, headDim: 8, feedForwardFactor: 2 },
    ...{ vocabularySize: 400, contextLength: 32, eps: 2 ** -23 },
  }),
} as const;

const sgdGroups: ParameterGroup[] = [
  {
    id: "all",
    has: () => true,
    optimizer: { kind: "sgd", momentum: 0.9, weight_decay: 0 },
    rateScale: 30,
  },
];

const windows: Windows = windowsOf(
  referenceCorpus().train.map((s) => s.tokens),
  16,
  8,
);

const config: TrainerConfig = {
  ...{
    seed: 7,
    sequences: 4,
    accumulation: 2,
    learningRate: 3e-3,
    clip: 1,
    precision: "f32",
    recompute: false,
  },
  groups: adamWGroups(0.01),
  schedule: { kind: "warmup_cosine", warmup_steps: 2, total_steps: 12, min_learning_rate: 3e-4 },
};

/** Losses of `steps` steps and the bytes of the parameters after them. */
function run(model: TrainedModel, steps: number, changed: Partial<TrainerConfig> = {}) {
  using trainer = new Trainer(device, model, windows, { ...config, ...changed });
  const records = Array.from({ length: steps }, () => trainer.step());
  return { records, losses: records.map((r) => r.loss), bytes: device.download(trainer.parameters.values) };
}

test("parameter counts are the declared ones", () => {
  expect(parameterCount(compactDecoder(compactDecoderInternal))).toBe(144_894_464);
  expect(parameterCount(gpt2(gpt2Small))).toBe(124_439_808);
  expect(parameterCount(golf(golfBaseline))).toBe(17_059_912);
});

describe.each(Object.entries(tiny))("%s", (_name, model) => {
  test("the first loss is near that of even odds, and losses fall", () => {
    const { losses } = run(model, 12);
    expect(Math.abs(losses[0]! - Math.log(400))).toBeLessThan(0.2);
    expect(losses.at(-1)!).toBeLessThan(losses[0]! - 0.3);
  });

  test("twice the same, and the same bits where blocks are run again", () => {
    const once = run(model, 3);
    expect(run(model, 3).bytes).toEqual(once.bytes);
    expect(run(model, 3, { recompute: true }).bytes).toEqual(once.bytes);
    expect(run(model, 3, { seed: 8 }).bytes).not.toEqual(once.bytes);
  });

  test("two microbatches are one of twice the size, up to rounding", () => {
    const [split, whole] = [run(model, 2), run(model, 2, { sequences: 8, accumulation: 1 })];
    for (const [i, loss] of split.losses.entries()) expect(loss).toBeCloseTo(whole.losses[i]!, 4);
  });

  test("bf16 follows f32", () => {
    const [single, half] = [run(model, 4), run(model, 4, { precision: "bf16" })];
    for (const [i, loss] of half.losses.entries())
      expect(Math.abs(loss - single.losses[i]!)).toBeLessThan(0.02);
    expect(half.bytes).not.toEqual(single.bytes);
  });

  test("muon and SGD train it too", () => {
    const muon = run(model, 8, { groups: muonGroups(5) });
    expect(muon.losses.at(-1)!).toBeLessThan(muon.losses[0]! - 0.1);
    const sgd = run(model, 8, { groups: sgdGroups });
    expect(sgd.losses.at(-1)!).toBeLessThan(sgd.losses[0]! - 0.1);
  });
});

describe("what stops a run", () => {
  test.each([
    ["AdamW", adamWGroups(0.1)],
    ["Muon", muonGroups(5, 0.1)],
    ["SGD", sgdGroups],
  ])("a loss that is no number names step and tensor and changes nothing (%s)", (_name, groups) => {
    using trainer = new Trainer(device, tiny.compact, windows, {
      ...config,
      groups,
      learningRate: 1e30,
      clip: Number.POSITIVE_INFINITY,
    });
    const { parameters, optimizer } = trainer;
    const state = (): Uint8Array[] =>
      [parameters.values, optimizer.first, optimizer.second].flatMap((t) => (t ? [device.download(t)] : []));
    let error: unknown;
    let before: Uint8Array[] = [];
    for (let i = 0; i < 6 && !error; i++) {
      before = state();
      try {
        trainer.step();
      } catch (e) {
        error = e;
      }
    }
    expect(error).toBeInstanceOf(NotFiniteError);
    const { message, details } = error as NotFiniteError;
    expect(message).toMatch(/at step \d+, got \S+ in (parameter|gradient) \w+|in loss/);
    expect(details.step).toBe(trainer.completedSteps + 1);
    expect(state()).toEqual(before);
  });

  test("data of another tokenizer, sequences too long, settings that make no sense", () => {
    const make =
      (model: TrainedModel, changed: Partial<TrainerConfig>, w = windows) =>
      () =>
        void new Trainer(device, model, w, { ...config, ...changed });
    const narrow = gpt2({ width: 32, layers: 1, heads: 2, vocabularySize: 50, contextLength: 32 });
    expect(make(narrow, {})).toThrow(/vocabulary of 50.*another tokenizer/);
    const short = gpt2({ width: 32, layers: 1, heads: 2, vocabularySize: 400, contextLength: 8 });
    expect(make(short, {})).toThrow(/at most 8 tokens, got 16/);
    expect(make(tiny.gpt2, { learningRate: Number.NaN })).toThrow(/learning rate above 0/);
    expect(make(tiny.gpt2, { sequences: 0 })).toThrow(/sequences of at least 1/);
    const group = { rank: 0, count: 2, sum() {}, start() {}, join() {} };
    const uneven = { ...config, accumulation: 3 };
    expect(() => new Trainer(device, tiny.gpt2, windows, uneven, "seed", group)).toThrow(/multiples of 2/);
    expect(make(tiny.gpt2, { schedule: { kind: "warm_down", total_steps: 4, warm_down_steps: 0 } })).toThrow(
      /warm_down_steps/,
    );
  });
});

test("evaluation is the mean loss of held-out windows", () => {
  using trainer = new Trainer(device, tiny.gpt2, windows, config);
  const held = windowsOf(
    referenceCorpus().validation.map((s) => s.tokens),
    16,
    16,
  );
  expect(Math.abs(trainer.evaluate(held) - Math.log(400))).toBeLessThan(0.2);
});
