/** Sums of gradients over replicas, begun while the backward pass goes on. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import { type Windows, windowsOf } from "../data/batches.ts";
import { referenceCorpus } from "../data/reference_corpus.ts";
import type { Device } from "../runtime/device.ts";
import { type Tensor, tensorBytes } from "../runtime/tensor.ts";
import { gpt2 } from "./models/gpt2.ts";
import { adamWGroups } from "./optimizer/config.ts";
import { Trainer, type TrainerConfig } from "./trainer.ts";

let device: Device;
beforeAll(() => {
  device = openDevice("cpu", { threads: 1 });
});
afterAll(() => device.close());

const model = gpt2({ width: 32, layers: 4, heads: 2, vocabularySize: 400, contextLength: 16 });
const windows: Windows = windowsOf(
  referenceCorpus().train.map((s) => s.tokens),
  8,
  8,
);
const config: TrainerConfig = {
  ...{
    seed: 7,
    sequences: 2,
    accumulation: 2,
    learningRate: 1e-3,
    clip: 1,
    precision: "f32",
    recompute: false,
  },
  ...{ groups: adamWGroups(0.01), schedule: { kind: "constant" } },
};

/** What a step did, in order: ops by name, sums by their place, and the join. */
function traced(changed: Partial<TrainerConfig> = {}) {
  const events: string[] = [];
  const started: Tensor[] = [];
  let sumOnce: ((t: Tensor) => void) | undefined;
  const group = {
    ...{ rank: 0, count: 1 },
    sum() {},
    start(t: Tensor) {
      events.push("start");
      started.push(t);
      sumOnce?.(t);
    },
    join: () => void events.push("join"),
  };
  const hear = ({ op }: { op: { name: string } }): void => void events.push(op.name);
  const trainer = new Trainer(device, model, windows, { ...config, ...changed }, "seed", group);
  const step = () => {
    events.length = 0;
    started.length = 0;
    device.listeners.add(hear);
    const { loss } = trainer.step();
    device.listeners.delete(hear);
    return { loss, events: [...events], started: [...started] };
  };
  const doubled = () => {
    sumOnce = (t) => {
      if (t.shape.length === 1)
        device.upload(
          t,
          device.downloadF32(t).map((v) => 2 * v),
        );
    };
  };
  return { trainer, step, doubled };
}

/** Addresses of the gradients' sums, each with its end, sorted. */
const spans = (tensors: readonly Tensor[], { gradients }: Trainer["parameters"]): number[][] =>
  tensors
    .filter((t) => t.address >= gradients.address && t.address < gradients.address + tensorBytes(gradients))
    .map((t) => [t.address, t.address + tensorBytes(t)])
    .sort((a, b) => a[0]! - b[0]!);

test.each([false, true])(
  "sums begin before the backward pass ends, each once, all of it (recompute %s)",
  (recompute) => {
    const { trainer, step } = traced({ recompute });
    using _trainer = trainer;
    const [first, second, third] = [step(), step(), step()];
    const { parameters } = trainer;
    const whole = spans(first.started, parameters);
    expect(whole.length).toBeGreaterThan(8);
    expect(whole[0]![0]).toBe(parameters.gradients.address);
    expect(whole.at(-1)![1]).toBe(parameters.gradients.address + tensorBytes(parameters.gradients));
    for (const [i, span] of whole.slice(1).entries()) expect(span[0]).toBe(whole[i]![1]!);
    // the first pass counts, later ones begin as soon as a run of gradients is made, the same every time
    const startsBefore = (events: string[]): number => {
      const last = events.lastIndexOf("lookup_grad");
      return events.slice(0, last).filter((e) => e === "start").length;
    };
    expect(startsBefore(first.events)).toBe(0);
    expect(startsBefore(second.events)).toBeGreaterThan(whole.length / 2);
    expect(third.events).toEqual(second.events);
    expect(third.started.map((t) => t.address)).toEqual(second.started.map((t) => t.address));
    for (const { events, started } of [second, third]) {
      expect(spans(started, parameters)).toEqual(whole);
      // once a step, in the pass of its last microbatch, and awaited before the norm
      expect(events.filter((e) => e === "join")).toHaveLength(1);
      expect(events.lastIndexOf("start")).toBeLessThan(events.indexOf("join"));
      expect(events.indexOf("join")).toBeLessThan(events.indexOf("sum_squares"));
      expect(events.indexOf("start")).toBeGreaterThan(events.indexOf("lookup_grad"));
    }
  },
);

test("what is summed is the whole step's gradient: nothing is added to a run after its sum began", () => {
  const { trainer, step, doubled } = traced();
  using _trainer = trainer;
  using plain = new Trainer(device, model, windows, config);
  step();
  plain.step();
  doubled();
  step();
  plain.step();
  const [got, want] = [trainer, plain].map((t) => device.downloadF32(t.parameters.gradients));
  expect(got).toEqual(want!.map((v) => 2 * v));
});
