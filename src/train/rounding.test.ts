/** The finish on values of a file's blocks, and the schedule that says when it begins. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import { windowsOf } from "../data/batches.ts";
import type { RoundingFormat } from "../ir/ops/block_round.ts";
import type { Device } from "../runtime/device.ts";
import type { ParameterSpec } from "./model.ts";
import { gptOss } from "./models/gpt_oss.ts";
import { adamWGroups } from "./optimizer/config.ts";
import { budgetOf, checkSchedule, progressAt, rateAt, type Schedule } from "./schedule.ts";
import { Trainer, type TrainerConfig } from "./trainer.ts";

let device: Device;
beforeAll(() => {
  device = openDevice("cpu", { threads: 1 });
});
afterAll(() => device.close());

const model = gptOss({
  ...{ width: 32, layers: 1, heads: 2, kvHeads: 1, headDim: 32, window: 8, experts: 2, expertsUsed: 1 },
  ...{ expertFeedForward: 32, vocabularySize: 64, contextLength: 16, ropeBase: 10000, balance: 0.01 },
  ropeScaling: { type: "none" },
});
const windows = windowsOf([Int32Array.from({ length: 200 }, (_, i) => (i * 7 + (i % 5)) % 64)], 16, 8);

const schedule: Schedule = {
  kind: "rise_and_fall",
  ...{ total_steps: 10, budget_ms: 0, warmup_steps: 2, fall_share: 0.5 },
};
const formatOf = ({ name, shape }: ParameterSpec): RoundingFormat | undefined =>
  name.includes(".experts.") && shape.length === 3 ? "mxfp4" : shape.length === 2 ? "q8_0" : undefined;
const config = (more: Partial<TrainerConfig>): TrainerConfig => ({
  ...{ seed: 3, sequences: 2, accumulation: 1, learningRate: 1e-2, clip: 1, recompute: false },
  ...({ precision: "f32", groups: adamWGroups(0), schedule } as const),
  ...more,
});

/** Different numbers of an MXFP4 matrix as the forward pass sees it, by what a block can hold. */
function levels(trainer: Trainer): number {
  const seen = trainer.parameters.weight("model.layers.0.mlp.experts.up_proj");
  const block = device.downloadF32(seen).slice(0, 32);
  return new Set(block.map(Math.abs)).size;
}

describe("rounding", () => {
  test.each(["f32", "bf16"] as const)(
    "begins at its share and stays, the masters are as fine as before: %s",
    (precision) => {
      using trainer = new Trainer(
        device,
        model,
        windows,
        config({ precision, rounding: { from: 0.5, formatOf } }),
      );
      for (let step = 1; step <= 5; step++) {
        trainer.step();
        expect(levels(trainer)).toBeGreaterThan(8);
      }
      trainer.step();
      expect(levels(trainer)).toBeLessThanOrEqual(8);
      const { places, values } = trainer.parameters;
      const place = places.find(({ spec }) => spec.name.includes("up_proj") && spec.shape.length === 3)!;
      const masters = device.downloadF32(values).slice(place.offset, place.offset + 32);
      expect(new Set(masters.map(Math.abs)).size).toBeGreaterThan(8);
    },
  );

  test("steps before it are those of a run without it, and it learns on", () => {
    using plain = new Trainer(device, model, windows, config({}));
    using finished = new Trainer(device, model, windows, config({ rounding: { from: 0.5, formatOf } }));
    const losses = Array.from({ length: 10 }, () => [plain.step().loss, finished.step().loss] as const);
    for (const [a, b] of losses.slice(0, 5)) expect(b).toBe(a);
    expect(losses[5]![1]).not.toBe(losses[5]![0]);
    for (const [a, b] of losses.slice(5)) expect(Math.abs(b - a)).toBeLessThan(0.2);
  });

  test("rows that are no whole blocks are refused", () => {
    const odd = {
      from: 0,
      formatOf: ({ name }: ParameterSpec) => (name.endsWith("bias") ? ("q8_0" as const) : undefined),
    };
    expect(() => new Trainer(device, model, windows, config({ rounding: odd }))).toThrow(
      "whole q8_0 blocks of 32",
    );
  });
});

describe("rise and fall", () => {
  test("by steps", () => {
    const rates = Array.from({ length: 10 }, (_, i) => rateAt(schedule, 1, i + 1));
    expect(rates.slice(0, 6)).toEqual([0.5, 1, 1, 1, 1, 1]);
    for (const [i, want] of [0.8, 0.6, 0.4, 0.2].entries()) expect(rates[6 + i]).toBeCloseTo(want, 12);
  });

  test("by time where that is sooner", () => {
    const timed = { ...schedule, budget_ms: 1000 } as const;
    expect(progressAt(timed, 2, 500)).toBe(0.5);
    expect(progressAt(timed, 9, 500)).toBe(0.8);
    expect(rateAt(timed, 1, 3, 750)).toBeCloseTo(0.5, 12);
    expect(rateAt(timed, 1, 3, 5000)).toBe(0);
    expect([budgetOf(timed), budgetOf(schedule), budgetOf({ kind: "constant" })]).toEqual([
      1000,
      undefined,
      undefined,
    ]);
  });

  test("numbers that make no rates are refused", () => {
    checkSchedule(schedule);
    for (const wrong of [
      { fall_share: 2 },
      { fall_share: -1 },
      { total_steps: 0 },
      { warmup_steps: 1.5 },
      { budget_ms: -1 },
    ]) {
      expect(() => checkSchedule({ ...schedule, ...wrong })).toThrow(Object.keys(wrong)[0]!);
    }
  });
});
