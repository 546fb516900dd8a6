import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { openDevice } from "../../backends/index.ts";
import type { Device } from "../../runtime/device.ts";
import type { ParameterSpec, TrainedModel } from "../model.ts";
import { Parameters, part } from "../parameters.ts";
import { normalNumbers } from "../random.ts";
import { WeightAverage } from "./average.ts";
import {
  adamW,
  adamWGroups,
  momentumAt,
  muonGroups,
  type OptimizerConfig,
  type ParameterGroup,
} from "./config.ts";
import { orthogonalised } from "./muon.ts";
import { Optimizer } from "./optimizer.ts";

let device: Device;
beforeAll(() => {
  device = openDevice("cpu", { threads: 2 });
});
afterAll(() => device.close());

const spec = (name: string, shape: number[], kind: ParameterSpec["class"]): ParameterSpec => ({
  name,
  shape,
  class: kind,
  initial: { kind: "normal", deviation: 0.5 },
});
const model: TrainedModel = {
  id: "parameters",
  vocabularySize: 1,
  contextLength: 1,
  parameters: [
    spec("a", [8, 6], "matrix"),
    spec("b", [8, 6], "matrix"),
    spec("c", [6, 20], "matrix"),
    spec("d", [3, 3], "matrix"),
    spec("e", [5], "bias"),
    spec("f", [9, 4], "embedding"),
  ],
  losses: () => {
    throw new Error("not run");
  },
  flopsPerToken: () => 0,
};

/** Runs `steps` steps with gradients from a seed and hands out parameters before and after, and the gradients. */
function stepped(groups: readonly ParameterGroup[], clip: number, steps = 1) {
  using parameters = new Parameters(device, model, "f32");
  parameters.initialise(3);
  using optimizer = new Optimizer(parameters, groups, clip);
  const read = (flat: "values" | "gradients") =>
    new Map(
      parameters.places.map((p) => [p.spec.name, device.downloadF32(part(parameters[flat], p, [p.count]))]),
    );
  const before = read("values");
  for (const place of parameters.places) {
    const gradient = normalNumbers(`gradient ${place.spec.name}`, place.count, 1);
    device.upload(part(parameters.gradients, place, [place.count]), gradient);
  }
  let norm = 0;
  let groupNorms: readonly number[] = [];
  for (let step = 1; step <= steps; step++) {
    optimizer.setRates(step, 0.01);
    optimizer.limit();
    optimizer.update();
    const found = optimizer.norms();
    [norm, groupNorms] = [found.norm, found.groups];
  }
  return { before, after: read("values"), gradients: read("gradients"), norm, groupNorms };
}

const lengthOf = (lists: Iterable<Float32Array>): number => {
  let sum = 0;
  for (const list of lists) for (const v of list) sum += v * v;
  return Math.sqrt(sum);
};
const everything = (optimizer: OptimizerConfig): ParameterGroup[] => [
  { id: "all", has: () => true, optimizer, rateScale: 1 },
];

test("the global norm is that of all gradients, groups' norms make it up, and clipping scales by it", () => {
  const { gradients, norm, groupNorms, before, after } = stepped(
    everything({ kind: "sgd", momentum: 0, weight_decay: 0 }),
    2,
  );
  expect(norm).toBeCloseTo(lengthOf(gradients.values()), 5);
  expect(Math.hypot(...groupNorms)).toBeCloseTo(norm, 10);
  const moved = [...before].map(([name, p]) => p.map((v, i) => v - after.get(name)![i]!));
  expect(lengthOf(moved)).toBeCloseTo(0.01 * 2, 6);
});

test("AdamW's first step is the rate along the gradient's sign, and decay takes its share", () => {
  const { before, after, gradients } = stepped(adamWGroups(0.1), Number.POSITIVE_INFINITY);
  for (const [name, old] of before) {
    const decay = name === "e" ? 0 : 0.1;
    for (const [i, v] of old.entries()) {
      const wanted = v - 0.01 * (Math.sign(gradients.get(name)![i]!) + decay * v);
      expect(Math.abs(after.get(name)![i]! - wanted)).toBeLessThan(2e-6);
    }
  }
});

test("AdamW over three steps is its formula in f64", () => {
  const { before, after, gradients } = stepped(
    everything(adamW(0.1, 0.9, 0.99)),
    Number.POSITIVE_INFINITY,
    3,
  );
  for (const [name, old] of before) {
    for (const [i, start] of old.entries()) {
      const g = gradients.get(name)![i]!;
      let [p, m, v] = [start, 0, 0];
      for (let t = 1; t <= 3; t++) {
        m = 0.9 * m + 0.1 * g;
        v = 0.99 * v + 0.01 * g * g;
        p -= 0.01 * (m / (1 - 0.9 ** t) / (Math.sqrt(v / (1 - 0.99 ** t)) + 1e-8) + 0.1 * p);
      }
      expect(Math.abs(after.get(name)![i]! - p)).toBeLessThan(3e-6);
    }
  }
});

describe("Muon", () => {
  test.each([
    [3, 16, 10],
    [2, 10, 16],
    [1, 1, 7],
  ])("%i matrices of %i x %i come out with singular values near 1", (batch, rows, columns) => {
    for (const precision of ["f32", "bf16"] as const) {
      using _scope = device.scope();
      const x = device.fromHost("f32", [batch, rows, columns], normalNumbers("x", batch * rows * columns, 3));
      const y = device.downloadF32(orthogonalised(x, 5, precision));
      const small = Math.min(rows, columns);
      for (let b = 0; b < batch; b++) {
        const at = (i: number, j: number): number => y[(b * rows + i) * columns + j]!;
        // the trace of the smaller square is the sum of squared singular values
        let trace = 0;
        for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) trace += at(i, j) ** 2;
        expect(trace / small).toBeGreaterThan(0.45);
        expect(trace / small).toBeLessThan(1.3);
      }
    }
  });

  test("matrices of one shape are one batch with the bits of each alone; the rest is AdamW's", () => {
    const groups = muonGroups(2);
    const together = stepped(groups, Number.POSITIVE_INFINITY, 2).after;
    const [matrices, ...rest] = groups as [ParameterGroup, ...ParameterGroup[]];
    const one = (name: string): ParameterGroup => ({ ...matrices, id: name, has: (s) => s.name === name });
    const apart = stepped(
      [one("a"), one("b"), one("c"), one("d"), ...rest],
      Number.POSITIVE_INFINITY,
      2,
    ).after;
    expect(together).toEqual(apart);
  });

  test("its momentum rises linearly, and a step takes the one that is due", () => {
    const [first, ...rest] = muonGroups(1, 0, 4) as [ParameterGroup, ...ParameterGroup[]];
    const warmed = first.optimizer as Extract<OptimizerConfig, { kind: "muon" }>;
    const due = [1, 2, 5, 9].map((step) => Number(momentumAt(warmed, step).toFixed(6)));
    expect(due).toEqual([0.85, 0.875, 0.95, 0.95]);
    const { momentum_warmup: _none, ...steady } = warmed;
    const after = (optimizer: OptimizerConfig, steps: number) =>
      stepped([{ ...first, optimizer }, ...rest], Number.POSITIVE_INFINITY, steps).after.get("c");
    // with its start as its end it is the same as steady; else it is not
    const same = { ...warmed, momentum: 0.85 };
    expect(after(same, 2)).toEqual(after({ ...steady, momentum: 0.85 }, 2));
    expect(after(warmed, 1)).toEqual(after({ ...steady, momentum: 0.85 }, 1));
    const bad = { ...warmed, momentum_warmup: { start: 0.85, steps: 0 } };
    expect(() => after(bad, 1)).toThrow(/momentum_warmup.steps 0/);
  });

  test("is refused for what is no matrix", () => {
    const { optimizer } = muonGroups(1)[0]!;
    expect(() => stepped(everything(optimizer), 1)).toThrow(/matrices for muon, got e \[5\]/);
  });
});

test("averages: EMA begins with the first step, SWA is the mean of its steps", () => {
  using parameters = new Parameters(device, model, "f32");
  using ema = new WeightAverage(parameters, { kind: "ema", decay: 0.75 });
  using swa = new WeightAverage(parameters, { kind: "swa", from: 2, every: 2 });
  for (const [i, value] of [1, 2, 4, 8].entries()) {
    device.upload(parameters.values, new Float32Array(parameters.elements).fill(value));
    ema.update(i + 1);
    swa.update(i + 1);
  }
  const first = (a: WeightAverage): number => device.downloadF32(a.values)[0]!;
  expect(first(ema)).toBeCloseTo(0.75 * (0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4) + 0.25 * 8, 6);
  expect(first(swa)).toBe(5);
  expect(() => new WeightAverage(parameters, { kind: "ema", decay: 1 })).toThrow(/weight average/);
});

test("settings that make no sense are refused", () => {
  expect(() => stepped(everything(adamW(-1)), 1)).toThrow(/weight decay of at least 0/);
  expect(() => stepped(everything(adamW(0, 1)), 1)).toThrow(/beta1 1/);
  expect(() => stepped(everything(adamW(0, 0.9, 0.9, 0)), 1)).toThrow(/epsilon above 0/);
  expect(() => stepped(adamWGroups(0), 0)).toThrow(/norm above 0/);
  expect(() => stepped([], 1)).toThrow(/a group for every parameter/);
});
