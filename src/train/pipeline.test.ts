/** Two and three stages against one trainer that has the whole model: losses and parameters, bit for bit. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import { windowsOf } from "../data/batches.ts";
import type { Device } from "../runtime/device.ts";
import { compactDecoder } from "./models/compact_decoder.ts";
import { adamWGroups } from "./optimizer/config.ts";
import { part } from "./parameters.ts";
import {
  type Learned,
  partsOfStage,
  type Returned,
  type StageLinks,
  type StageStep,
  StageTrainer,
} from "./pipeline.ts";
import { Trainer, type TrainerConfig } from "./trainer.ts";

let device: Device;
beforeAll(() => {
  device = openDevice("cpu", { threads: 1 });
});
afterAll(() => device.close());

const model = compactDecoder({
  ...{ id: "staged", width: 24, layers: 4, heads: 2, headDim: 12, feedForward: 40 },
  ...{ vocabularySize: 61, contextLength: 16, ownHead: true },
});
const tokens = Int32Array.from({ length: 300 }, (_, i) => (i * i + 7 * i) % 61);
const windows = windowsOf([tokens], 12, 5);
const config: TrainerConfig = {
  ...{ seed: 3, sequences: 3, accumulation: 1, learningRate: 3e-3, schedule: { kind: "constant" } },
  ...{ groups: adamWGroups(0.01), clip: Number.POSITIVE_INFINITY, precision: "f32", recompute: false },
};
const steps = 6;

function whole(changes: Partial<TrainerConfig> = {}) {
  using trainer = new Trainer(device, model, windows, { ...config, ...changes });
  const records = Array.from({ length: steps }, () => trainer.step());
  const [losses, norms] = [records.map((r) => r.loss), records.map((r) => Math.fround(r.gradientNorm))];
  return { losses, norms, parameters: named(trainer) };
}

function named({ parameters }: { readonly parameters: Trainer["parameters"] }): Map<string, Float32Array> {
  const pairs = parameters.places.map(
    (p) => [p.spec.name, device.downloadF32(part(parameters.values, p, p.spec.shape))] as const,
  );
  return new Map(pairs);
}

const never = (): never => {
  throw new Error("the parts of a step are called one by one");
};

/** What a step through the stages from `index` on learns: each one's exchange runs the next. */
function through(
  stages: readonly StageTrainer[],
  index: number,
  learned: Learned[],
  input?: Float32Array,
): Returned {
  let back: Returned | undefined;
  const links: StageLinks = {
    input: () => input!,
    exchange: (_, activation) => through(stages, index + 1, learned, activation),
    giveBack: (_, returned) => {
      back = returned;
    },
    agree: never,
  };
  const own = stages[index]!.learn(links);
  learned[index] = own;
  return back ?? { gradient: new Float32Array(), loss: own.loss };
}

function stepOf(stages: readonly StageTrainer[]): StageStep {
  const learned: Learned[] = [];
  through(stages, 0, learned);
  return stages.map((stage, i) => stage.update(learned[i]!, learned[0]!.squares))[0]!;
}

function staged(count: number, changes: Partial<TrainerConfig> = {}) {
  const places = Array.from({ length: count }, (_, index) => ({ index, count }));
  const stages = places.map(
    (place) => new StageTrainer(device, model, windows, { ...config, ...changes }, place),
  );
  const records = Array.from({ length: steps }, () => stepOf(stages));
  const [losses, norms] = [records.map((r) => r.loss), records.map((r) => Math.fround(r.gradientNorm))];
  const parameters = new Map(stages.flatMap((stage) => [...named(stage)]));
  for (const stage of stages) stage[Symbol.dispose]();
  return { losses, norms, parameters };
}

describe("stages", () => {
  for (const precision of ["f32", "bf16"] as const) {
    for (const recompute of [false, true]) {
      test(`two, three and four in ${precision}${recompute ? ", blocks run again" : ""}`, () => {
        const expected = whole({ precision, recompute });
        expect(expected.losses.at(-1)).toBeLessThan(expected.losses[0]!);
        for (const count of [2, 3, 4]) {
          const found = staged(count, { precision, recompute });
          expect(found.losses).toEqual(expected.losses);
          expect(found.parameters.size).toBe(expected.parameters.size);
          for (const [name, values] of expected.parameters)
            expect(found.parameters.get(name)).toEqual(values);
        }
      });
    }
  }

  test("a limit of the norm holds for all of them together", () => {
    const limit = { clip: 0.5 };
    const [free, expected] = [whole(), whole(limit)];
    expect(expected.losses).not.toEqual(free.losses);
    expect(expected.norms[0]).toBeGreaterThan(limit.clip);
    for (const count of [2, 3, 4]) {
      const found = staged(count, limit);
      expect([found.losses, found.norms]).toEqual([expected.losses, expected.norms]);
      for (const [name, values] of expected.parameters) expect(found.parameters.get(name)).toEqual(values);
    }
  });

  test("no part stands on two stages, none is left out", () => {
    for (const count of [2, 3, 4]) {
      const dealt = Array.from({ length: count }, (_, index) => partsOfStage(model, { index, count })).flat();
      expect(dealt).toEqual([...model.parts!.list]);
    }
  });

  test("what needs the whole model is refused", () => {
    const place = { index: 0, count: 2 };
    const make = (changes: Partial<TrainerConfig>) => () =>
      new StageTrainer(device, model, windows, { ...config, ...changes }, place);
    expect(make({ accumulation: 2 })).toThrow("one microbatch");
    expect(() => partsOfStage(model, { index: 0, count: 5 })).toThrow("at least 5 layers");
    const tied = compactDecoder({
      ...{ id: "tied", width: 8, layers: 2, heads: 2, headDim: 4, feedForward: 8 },
      ...{ vocabularySize: 61, contextLength: 16 },
    });
    expect(() => partsOfStage(tied, place)).toThrow("a model that comes in parts");
  });
});
