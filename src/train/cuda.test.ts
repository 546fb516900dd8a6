/** Training on the CUDA backend, its kernels on fibers where there is no device, against the CPU. */

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDevice } from "../backends/index.ts";
import { cudaLibrary, onFibers } from "../backends/testing/cuda_library.ts";
import { type Windows, windowsOf } from "../data/batches.ts";
import { referenceCorpus } from "../data/reference_corpus.ts";
import { type AppliedCall, Device } from "../runtime/device.ts";
import type { TrainedModel } from "./model.ts";
import { compactDecoder, compactDecoderPilot } from "./models/compact_decoder.ts";
import { golf } from "./models/golf.ts";
import { gptOss } from "./models/gpt_oss.ts";
import { gpt2 } from "./models/gpt2.ts";
import { adamWGroups, muonGroups } from "./optimizer/config.ts";
import { NotFiniteError, Trainer, type TrainerConfig } from "./trainer.ts";

setDefaultTimeout(60_000);

const tiny = {
  gpt2: gpt2({ width: 32, layers: 1, heads: 2, vocabularySize: 400, contextLength: 16 }),
  gptOss: gptOss({
    ...{ width: 32, layers: 1, heads: 4, kvHeads: 2, headDim: 8, window: 5, experts: 4, expertsUsed: 2 },
    ...{ expertFeedForward: 24, vocabularySize: 400, contextLength: 16, ropeBase: 10000, balance: 0.01 },
    ropeScaling: { type: "none" },
  }),
  golf: golf({
    ...{ width: 32, layers: 3, heads: 4, kvHeads: 2, headDim: 8, feedForwardFactor: 2 },
    ...{ vocabularySize: 400, contextLength: 16, eps: 2 ** -23 },
  }),
  compact: compactDecoder({
    ...{ ...compactDecoderPilot, width: 32, layers: 1, heads: 2, headDim: 16, feedForward: 48 },
    ...{ vocabularySize: 400, contextLength: 16 },
  }),
} as const;

const windows: Windows = windowsOf(
  referenceCorpus().train.map((s) => s.tokens),
  8,
  8,
);

const config: TrainerConfig = {
  ...{
    seed: 7,
    sequences: 2,
    accumulation: 1,
    learningRate: 3e-3,
    clip: 1,
    precision: "f32",
    recompute: false,
  },
  groups: adamWGroups(0.01),
  schedule: { kind: "warmup_cosine", warmup_steps: 2, total_steps: 20, min_learning_rate: 3e-4 },
};

/**
 * Losses of a step, and how far the parameters' update may be from the CPU's in f32, as a share of it: some tens of what
 * was seen in f32 (2e-5), some times in bf16 (0.04 after two steps); Muon's iteration makes more of rounding.
 */
const tolerance = {
  f32: { loss: 2e-3, update: 1e-3, muon: 5e-2 },
  bf16: { loss: 1e-2, update: 0.2, muon: 0.2 },
} as const;

function run(device: Device, model: TrainedModel, steps: number, changed: Partial<TrainerConfig> = {}) {
  using trainer = new Trainer(device, model, windows, { ...config, ...changed });
  const { values } = trainer.parameters;
  const initial = device.downloadF32(values);
  const records = Array.from({ length: steps }, () => trainer.step());
  const last = device.downloadF32(values);
  return {
    losses: records.map((r) => r.loss),
    bytes: device.download(values),
    update: last.map((v, i) => v - initial[i]!),
  };
}

/** How far an update is from the one wanted, as a share of it. */
function apart(got: Float32Array, want: Float32Array): number {
  const norm = (a: Float32Array): number => Math.sqrt(a.reduce((sum, v) => sum + v * v, 0));
  return norm(got.map((v, i) => v - want[i]!)) / norm(want);
}

describe.skipIf(!cudaLibrary)("training on CUDA", () => {
  let cuda: Device;
  let cpu: Device;
  beforeAll(() => {
    cuda = openDevice("cuda");
    cpu = openDevice("cpu", { threads: 1 });
  });
  afterAll(() => {
    cuda.close();
    cpu.close();
  });

  test.each(Object.entries(tiny))("%s: losses are the CPU's, and they fall", (name, model) => {
    for (const precision of ["f32", "bf16"] as const) {
      const long = name === "gpt2" && precision === "bf16";
      const steps = long || !onFibers ? 20 : 2;
      const groups = name === "golf" ? muonGroups(5) : config.groups;
      const [got, want] = [
        run(cuda, model, steps, { precision, groups }),
        run(cpu, model, steps, { groups }),
      ];
      for (const [i, loss] of got.losses.entries()) {
        expect(Math.abs(loss - want.losses[i]!)).toBeLessThan(tolerance[precision].loss);
      }
      const most = tolerance[precision][name === "golf" ? "muon" : "update"];
      expect(apart(got.update, want.update)).toBeLessThan(most);
      if (steps > 4) expect(got.losses.at(-1)!).toBeLessThan(got.losses[0]! - (name === "golf" ? 0.02 : 0.3));
    }
  });

  test("from the third on a step is one recording, with the bits of steps that are called one by one", () => {
    const called = new Device({ ...cuda.backend, captures: false });
    try {
      for (const [model, groups] of [
        [tiny.gpt2, config.groups],
        [tiny.golf, muonGroups(5, 0.1, 3)],
      ] as const) {
        const changed = { precision: "bf16", accumulation: 2, groups } as const;
        const steps = onFibers ? 3 : 8;
        using recorded = new Trainer(cuda, model, windows, { ...config, ...changed });
        const calls: number[] = [];
        const hear = (): void => void calls[calls.length - 1]!++;
        cuda.listeners.add(hear);
        const records = Array.from({ length: steps }, () => {
          calls.push(0);
          return recorded.step();
        });
        cuda.listeners.delete(hear);
        expect(calls[0]!).toBeGreaterThan(50);
        expect(calls.slice(2).every((n) => n === 0)).toBeTrue();
        const got = cuda.download(recorded.parameters.values);
        const want = run(called, model, steps, changed);
        expect(records.map((r) => r.loss)).toEqual(want.losses);
        expect(got).toEqual(want.bytes);
      }
    } finally {
      called.arena.free();
    }
  });

  test("a recorded step whose loss is no number changes nothing", () => {
    const changed = { precision: "bf16", learningRate: 1e30, clip: Number.POSITIVE_INFINITY } as const;
    const schedule = { kind: "constant" } as const;
    using trainer = new Trainer(cuda, tiny.gpt2, windows, { ...config, ...changed, schedule });
    const { values } = trainer.parameters;
    const { first, second } = trainer.optimizer;
    const state = (): Uint8Array[] => [values, first, second!].map((t) => cuda.download(t));
    trainer.step();
    cuda.upload(values, cuda.downloadF32(values).fill(1e30, 0, 2000));
    trainer.parameters.refresh();
    // the second is recorded before it runs, the third is launched
    for (const _ of [2, 3]) {
      const before = state();
      expect(() => trainer.step()).toThrow(NotFiniteError);
      expect(state()).toEqual(before);
      expect(trainer.completedSteps).toBe(1);
    }
  });

  test("a step whose products are wide enough for Hopper's form", () => {
    const model = gpt2({ width: 64, layers: 1, heads: 2, vocabularySize: 400, contextLength: 16 });
    const changed = { sequences: 8 };
    let wide = 0;
    const hear = ({ op, inputs: [a, b] }: AppliedCall): void => {
      const sides = [...(a?.shape ?? []), ...(b?.shape ?? [])];
      if (op.name === "gemm" && a?.dtype === "bf16" && b?.dtype === "bf16" && Math.min(...sides) >= 64)
        wide++;
    };
    cuda.listeners.add(hear);
    const got = run(cuda, model, 1, { ...changed, precision: "bf16" });
    cuda.listeners.delete(hear);
    // per matrix of the block forward, and backward for what goes in and for the matrix
    expect(wide).toBeGreaterThanOrEqual(12);
    if (onFibers) expect(String(cuda.backend.info().compute)).toBe("9.0");
    const want = run(cpu, model, 1, changed);
    expect(apart(got.update, want.update)).toBeLessThan(tolerance.bf16.update);
  });

  test("twice the same bits, also where blocks are run again", () => {
    for (const model of [tiny.gpt2, tiny.gptOss]) {
      const changed = { precision: "bf16" } as const;
      const once = run(cuda, model, 2, changed);
      expect(run(cuda, model, 2, changed).bytes).toEqual(once.bytes);
      expect(run(cuda, model, 2, { ...changed, recompute: true }).bytes).toEqual(once.bytes);
    }
  });
});

test.skipIf(!cudaLibrary)("train start --backend cuda; resume goes on there, and nowhere else", async () => {
  const root = join(mkdtempSync(join(tmpdir(), "psionic-train-cuda-")), "run");
  const train = async (...words: string[]) => {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "..", "main.ts"), "train", ...words], {
      env: { ...process.env, PSIONIC_CUDA_LIBRARY: cudaLibrary },
      stdout: "pipe",
      stderr: "pipe",
    });
    const [out, err] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    return { code: await child.exited, out, err };
  };
  const tiny = ["--model", "tiny_gpt2", "--precision", "bf16", "--sequences", "1", "--length", "4"];
  const begin = ["--max-steps", "1", "--backend", "cuda", "--output-root", root, "--allow-dirty-tree"];
  expect((await train("start", ...tiny, ...begin)).out).toContain("last_completed_step=1");
  const settings = JSON.parse(readFileSync(join(root, "manifests/run_settings.json"), "utf8"));
  expect(settings.backend).toBe("cuda");
  const more = ["--run-root", root, "--max-steps", "2", "--steps-per-window", "1", "--allow-dirty-tree"];
  const elsewhere = await train("resume", ...more, "--backend", "cpu");
  expect(elsewhere.code).toBe(2);
  expect(elsewhere.err).toContain("a run goes on with the backend it began with, cuda, got cpu");
  expect((await train("resume", ...more)).out).toContain("last_completed_step=2");
  const preflight = readFileSync(join(root, "preflight/hardware_qualification.json"), "utf8");
  expect(JSON.parse(preflight)).toMatchObject({
    required_backend: "cuda",
    observed_workers: [{ backend: "cuda" }],
  });
});
