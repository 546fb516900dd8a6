/**
 * Losses, gradients and optimiser steps against PyTorch's, from files that scripts/pytorch/training_truth.py makes. They
 * are not in the fixtures: PSIONIC_GOLDEN names the folder that has them as training/gpt2, gpt2_initial (at its paper's
 * initial values), gpt_oss and gpt_oss_golden, the golden model of the fixtures. On the CPU, or where PSIONIC_TRUTH_BACKEND says.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openDevice } from "../backends/index.ts";
import type { HostBatch, Windows } from "../data/batches.ts";
import { openFile } from "../models/files/bytes.ts";
import { parseSafetensors } from "../models/files/safetensors.ts";
import type { Device } from "../runtime/device.ts";
import type { TrainedModel } from "./model.ts";
import { type GptOssTrainingConfig, gptOss } from "./models/gpt_oss.ts";
import { type Gpt2Config, gpt2 } from "./models/gpt2.ts";
import { adamWGroups, muonGroups, type ParameterGroup } from "./optimizer/config.ts";
import { part } from "./parameters.ts";
import { Trainer } from "./trainer.ts";

/**
 * Of a gradient's norm, or of a thousandth of the norm of all where that is more: biases of keys have none but rounding.
 */
const gradientTolerance = { f32: 1e-4, bf16: 1e-2 } as const;
const lossTolerance = 1e-3;

type Truth = {
  readonly config: unknown;
  readonly sequences: number;
  readonly length: number;
  readonly adam_w: { readonly lr: number; readonly weight_decay: number };
  readonly muon: { readonly lr: number };
  readonly tokens: readonly (readonly number[])[];
  readonly targets: readonly (readonly number[])[];
  /** Of gpt2 and gpt_oss. */
  readonly adam_w_losses?: readonly number[];
  readonly muon_losses?: readonly number[];
  /** What PyTorch's own bf16 is off its f32 by at worst. */
  readonly bf16_noise?: number;
};

const models: Readonly<Record<string, (config: unknown) => TrainedModel>> = {
  gpt2: (config) => gpt2(config as Gpt2Config),
  gpt2_initial: (config) => gpt2(config as Gpt2Config),
  gpt_oss: (config) => gptOss(config as GptOssTrainingConfig),
  gpt_oss_golden: (config) => gptOss(config as GptOssTrainingConfig),
};

/**
 * Whether bf16 may be off as far as PyTorch's own: for the model whose parameters are so large that rounding its matrices, and
 * nothing else, moves gradients by up to 2e-2; and for GPT-2 with large ones, where tensors are bf16 too: the operands of its
 * products alone, which bf16 cannot do without, move them by up to 1.5e-2.
 */
const isLoose = (name: string): boolean =>
  name === "gpt_oss" || (device.backend.halfTensors === true && name === "gpt2");

function tensorsOf(path: string): ReadonlyMap<string, Float32Array> {
  using source = openFile(path);
  return new Map(
    [...parseSafetensors(source)].map(([name, { offset, bytes }]) => {
      const data = new Uint8Array(bytes);
      source.read(offset, data);
      return [name, new Float32Array(data.buffer)];
    }),
  );
}

let device: Device;
beforeAll(() => {
  device =
    process.env.PSIONIC_TRUTH_BACKEND === "cuda" ? openDevice("cuda") : openDevice("cpu", { threads: 1 });
});
afterAll(() => device.close());

describe.each(Object.keys(models))("%s against PyTorch", (name) => {
  const folder = join(process.env.PSIONIC_GOLDEN ?? "", "training", name);
  const there = process.env.PSIONIC_GOLDEN !== undefined && existsSync(join(folder, "truth.json"));
  const reason = there
    ? ""
    : " (PSIONIC_GOLDEN names no folder with training/, see scripts/pytorch/training_truth.py)";
  const truth = there ? (JSON.parse(readFileSync(join(folder, "truth.json"), "utf8")) as Truth) : undefined;

  function batch(i: number): HostBatch {
    const { sequences, length, tokens, targets } = truth!;
    const positions = Int32Array.from({ length: sequences * length }, (_, r) => r % length);
    return {
      sequences,
      length,
      tokens: Int32Array.from(tokens[i]!),
      targets: Int32Array.from(targets[i]!),
      positions,
    };
  }

  function opened(
    groups: readonly ParameterGroup[],
    precision: "f32" | "bf16",
    model = models[name]!(truth!.config),
  ): Trainer {
    const { length, sequences, adam_w } = truth!;
    const windows: Windows = { tokens: new Int32Array(length + 1), length, starts: Uint32Array.of(0) };
    const trainer = new Trainer(device, model, windows, {
      ...{
        seed: 0,
        sequences,
        accumulation: 1,
        learningRate: adam_w.lr,
        clip: 1,
        precision,
        recompute: false,
      },
      ...{ schedule: { kind: "constant" }, groups },
    });
    const values = tensorsOf(join(folder, "model.safetensors"));
    expect(trainer.parameters.places.length).toBe(values.size);
    for (const place of trainer.parameters.places) {
      device.upload(part(trainer.parameters.values, place, place.spec.shape), values.get(place.spec.name)!);
    }
    trainer.resumeAt(0);
    return trainer;
  }

  test.skipIf(!there).each(["f32", "bf16"] as const)(`loss and all gradients in %s${reason}`, (precision) => {
    // rounding to bf16 would send tokens to other experts, so there each uses all
    const all = precision === "bf16" && name.startsWith("gpt_oss");
    const config = truth!.config as GptOssTrainingConfig;
    const model = models[name]!(all ? { ...config, expertsUsed: config.experts } : config);
    using trainer = opened(adamWGroups(0), precision, model);
    trainer.parameters.clearGradients();
    const { loss } = trainer.accumulate(batch(0), 1 / batch(0).tokens.length);
    const wanted = tensorsOf(join(folder, `gradients${all ? "_all_experts" : ""}.safetensors`));
    const lengthOf = (values: Iterable<number>): number => {
      let squares = 0;
      for (const v of values) squares += v * v;
      return Math.sqrt(squares);
    };
    const total = lengthOf([...wanted].map(([key, g]) => (key === "loss" ? 0 : lengthOf(g))));
    const noise = precision === "bf16" && isLoose(name) ? (truth!.bf16_noise ?? 0) : 0;
    const tolerance = Math.max(gradientTolerance[precision], noise);
    expect(Math.abs(loss / wanted.get("loss")![0]! - 1)).toBeLessThan(tolerance);
    let worst = { off: 0, name: "" };
    for (const place of trainer.parameters.places) {
      const got = device.downloadF32(part(trainer.parameters.gradients, place, [place.count]));
      const want = wanted.get(place.spec.name)!;
      const norm = lengthOf(want);
      // a softmax does not see a shift of all its keys: what their bias gets is rounding, of the size of the queries'
      const beside = lengthOf(wanted.get(place.spec.name.replace(/\bk\.bias$/, "q.bias")) ?? want);
      const off = lengthOf(want.map((v, i) => got[i]! - v)) / Math.max(norm, beside, 1e-3 * total);
      if (!(off <= worst.off)) worst = { off, name: place.spec.name };
    }
    console.log(`${name}, ${precision}, ${device.name}: ${worst.name} off by ${worst.off.toExponential(2)}`);
    if (!(worst.off <= tolerance)) throw new Error(`${worst.name}: gradient off by ${worst.off}`);
  });

  test.skipIf(!truth?.adam_w_losses).each(["adam_w", "muon"] as const)(`ten steps of %s${reason}`, (kind) => {
    const { adam_w, muon } = truth!;
    const groups =
      kind === "adam_w"
        ? adamWGroups(adam_w.weight_decay)
        : muonGroups(muon.lr / adam_w.lr, adam_w.weight_decay).map((g) =>
            g.optimizer.kind === "muon"
              ? { ...g, optimizer: { ...g.optimizer, precision: "f32" as const } }
              : g,
          );
    using trainer = opened(groups, "f32");
    for (const [i, want] of truth![`${kind}_losses`]!.entries()) {
      const { loss } = trainer.stepOn([() => batch(i)]);
      expect(Math.abs(loss - want)).toBeLessThan(lossTolerance);
    }
  });
});
