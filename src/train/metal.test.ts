/** The trainer on the stand-in for Metal: the CPU's losses, and the same bits each time. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import { metalStandin } from "../backends/testing/metal_library.ts";
import { type Windows, windowsOf } from "../data/batches.ts";
import { referenceCorpus } from "../data/reference_corpus.ts";
import type { AppliedCall, Device } from "../runtime/device.ts";
import type { ParameterSpec, TrainedModel } from "./model.ts";
import { compactDecoder, compactDecoderPilot } from "./models/compact_decoder.ts";
import { golf } from "./models/golf.ts";
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
  golf: golf({
    ...{ width: 16, layers: 3, heads: 4, kvHeads: 2, headDim: 4, feedForwardFactor: 2 },
    ...{ vocabularySize: 400, contextLength: 16, eps: 2 ** -23 },
  }),
};
/** Rows of whole blocks of 32. */
const blocks = gptOss({
  ...{ width: 32, layers: 1, heads: 2, kvHeads: 1, headDim: 32, window: 5, experts: 2, expertsUsed: 1 },
  ...{ expertFeedForward: 32, vocabularySize: 400, contextLength: 16, ropeBase: 10000, balance: 0.01 },
  ropeScaling: { type: "none" },
});
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
    (name, model) => {
      const [want, got, again] = [run(cpu, model, 20), run(metal, model, 20), run(metal, model, 20)];
      for (const [i, loss] of got.losses.entries())
        expect(Math.abs(loss - want.losses[i]!)).toBeLessThan(1e-3);
      expect(got.losses.at(-1)!).toBeLessThan(got.losses[0]! - (name === "golf" ? 0.02 : 0.1));
      expect(again.bytes).toEqual(got.bytes);
    },
    120_000,
  );

  test("Muon and blocks that are run again follow it too", () => {
    for (const changed of [{ groups: muonGroups(5) }, { recompute: true, clip: Number.POSITIVE_INFINITY }]) {
      const [want, got] = [run(cpu, models.gpt2!, 4, changed), run(metal, models.gpt2!, 4, changed)];
      for (const [i, loss] of got.losses.entries())
        expect(Math.abs(loss - want.losses[i]!)).toBeLessThan(1e-3);
    }
  }, 120_000);

  test.each(Object.entries(models))(
    "%s in bf16 follows the CPU's f32; the loss and its gradient are one pass where the head has no bias",
    (name, model) => {
      const called = new Set<string>();
      const hear = ({ op }: AppliedCall): void => void called.add(op.name);
      metal.listeners.add(hear);
      const got = run(metal, model, 4, { precision: "bf16" });
      metal.listeners.delete(hear);
      const once = name !== "compact";
      for (const op of ["head_loss", "scale_by"]) expect(called.has(op)).toBe(once);
      expect(called.has("cross_entropy")).toBe(!once);
      const want = run(cpu, model, 4);
      // as CUDA's: numbers of 8 bits
      for (const [i, loss] of got.losses.entries())
        expect(Math.abs(loss - want.losses[i]!)).toBeLessThan(1e-2);
      const changed = { precision: "bf16", recompute: true } as const;
      expect(run(metal, model, 4, changed).bytes).toEqual(got.bytes);
    },
    120_000,
  );

  test.each(["f32", "bf16"] as const)(
    "a finish on the values of MXFP4 and Q8_0 follows the CPU's: %s",
    (precision) => {
      const formatOf = ({ name, shape }: ParameterSpec) =>
        name.includes(".experts.") && shape.length === 3
          ? ("mxfp4" as const)
          : shape.length === 2
            ? ("q8_0" as const)
            : undefined;
      const changed = {
        ...{ precision, rounding: { from: 0.5, formatOf } },
        schedule: { ...config.schedule, total_steps: 8 },
      } as const;
      const [want, got] = [run(cpu, blocks, 8, changed), run(metal, blocks, 8, changed)];
      const plain = run(metal, blocks, 8, { ...changed, rounding: undefined });
      for (const [i, loss] of got.losses.entries()) {
        expect(Math.abs(loss - want.losses[i]!)).toBeLessThan(precision === "f32" ? 1e-3 : 1e-2);
        if (i < 3) expect(loss).toBe(plain.losses[i]!);
      }
      expect(got.losses.at(-1)).not.toBe(plain.losses.at(-1));
    },
    120_000,
  );
});
