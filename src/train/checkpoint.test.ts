import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDevice } from "../backends/index.ts";
import { windowsOf } from "../data/batches.ts";
import { referenceCorpus } from "../data/reference_corpus.ts";
import type { Device } from "../runtime/device.ts";
import { loadCheckpoint, type RunIdentity, removeOldCheckpoints, saveCheckpoint } from "./checkpoint.ts";
import { compactDecoder, compactDecoderPilot } from "./models/compact_decoder.ts";
import { adamWGroups, muonGroups } from "./optimizer/config.ts";
import { Trainer, type TrainerConfig } from "./trainer.ts";

let device: Device;
let folder: string;
beforeAll(() => {
  device = openDevice("cpu", { threads: 1 });
  folder = mkdtempSync(join(tmpdir(), "psionic-checkpoint-"));
});
afterAll(() => {
  device.close();
  rmSync(folder, { recursive: true });
});

const model = compactDecoder({
  ...compactDecoderPilot,
  width: 32,
  layers: 1,
  heads: 2,
  headDim: 16,
  feedForward: 48,
  vocabularySize: 300,
  contextLength: 16,
});
const windows = windowsOf(
  referenceCorpus().train.map((s) => s.tokens),
  16,
  8,
);
const identity: RunIdentity = {
  model_id: model.id,
  dataset_identity: "d@v1",
  dataset_digest: "00",
  settings_digest: "11",
};
const config: TrainerConfig = {
  ...{
    seed: 7,
    sequences: 4,
    accumulation: 1,
    learningRate: 3e-3,
    clip: 1,
    precision: "f32",
    recompute: false,
  },
  groups: adamWGroups(0.01),
  schedule: { kind: "warmup_cosine", warmup_steps: 2, total_steps: 9, min_learning_rate: 0 },
  average: { kind: "ema", decay: 0.9 },
};
const open = (changed: Partial<TrainerConfig> = {}): Trainer =>
  new Trainer(device, model, windows, { ...config, ...changed });
const bytesOf = (t: Trainer): Uint8Array[] =>
  [t.parameters.values, t.optimizer.first, t.optimizer.second, t.average?.values].flatMap((x) =>
    x ? [device.download(x)] : [],
  );

describe.each([
  ["AdamW with EMA", {}],
  [
    "Muon with SWA, bf16",
    { groups: muonGroups(5), average: { kind: "swa", from: 2, every: 2 }, precision: "bf16" },
  ],
] as const)("%s", (_name, changed) => {
  test("resumed runs are the same, bit for bit", () => {
    using whole = open(changed);
    const losses = Array.from({ length: 7 }, () => whole.step().loss);
    using begun = open(changed);
    for (let i = 0; i < 3; i++) begun.step();
    const at = join(folder, "resume");
    const saved = saveCheckpoint(begun, at, identity);
    using resumed = open({ ...changed, seed: config.seed });
    resumed.step();
    loadCheckpoint(resumed, saved.folder, identity, saved.digest);
    expect(resumed.completedSteps).toBe(3);
    expect(Array.from({ length: 4 }, () => resumed.step().loss)).toEqual(losses.slice(3));
    expect(bytesOf(resumed)).toEqual(bytesOf(whole));
    rmSync(at, { recursive: true });
  });
});

test("the same state gives the same digest, another another", () => {
  using trainer = open();
  const first = saveCheckpoint(trainer, join(folder, "a"), identity);
  expect(saveCheckpoint(trainer, join(folder, "b"), identity).digest).toBe(first.digest);
  trainer.step();
  expect(saveCheckpoint(trainer, join(folder, "a"), identity).digest).not.toBe(first.digest);
});

describe("what is not loaded", () => {
  const damaged = (
    damage: (at: string) => void,
    expected: RegExp,
    changed: Partial<RunIdentity> = {},
  ): void => {
    const at = join(folder, "damaged");
    rmSync(at, { recursive: true, force: true });
    using trainer = open();
    trainer.step();
    const saved = saveCheckpoint(trainer, at, identity);
    damage(saved.folder);
    using other = open();
    const before = bytesOf(other);
    expect(() => loadCheckpoint(other, saved.folder, { ...identity, ...changed }, saved.digest)).toThrow(
      expected,
    );
    expect(bytesOf(other)).toEqual(before);
    expect(other.completedSteps).toBe(0);
  };
  const flip = (path: string): void => {
    const bytes = readFileSync(path);
    bytes[bytes.length - 5]! ^= 1;
    writeFileSync(path, bytes);
  };

  test("one changed bit, a cut file, a missing file, another state", () => {
    damaged((at) => flip(join(at, "model.safetensors")), /model\.safetensors\] expected SHA-256/);
    damaged((at) => flip(join(at, "optimizer.safetensors")), /optimizer\.safetensors\] expected SHA-256/);
    damaged((at) => truncateSync(join(at, "model.safetensors"), 1000), /expected \d+ bytes, got 1000/);
    damaged((at) => rmSync(join(at, "optimizer.safetensors")), /existing file/);
    damaged((at) => flip(join(at, "trainer_state.json")), /trainer_state\.json\] expected SHA-256/);
    damaged((at) => rmSync(join(at, "trainer_state.json")), /existing file/);
  });

  test("a run of other settings or data", () => {
    damaged(() => {}, /settings_digest 22, got 11\. A run goes on/, { settings_digest: "22" });
    damaged(() => {}, /dataset_digest/, { dataset_digest: "33" });
  });
});

describe("a full disk", () => {
  test("is refused before anything is written, and the last checkpoint stays", () => {
    const at = join(folder, "full");
    using trainer = open();
    const saved = saveCheckpoint(trainer, at, identity);
    trainer.step();
    expect(() => saveCheckpoint(trainer, at, identity, () => 1000)).toThrow(
      /bytes free for a checkpoint, got 1000.*intact/,
    );
    expect(readdirSync(at)).toEqual(["step-0"]);
    using other = open();
    expect(loadCheckpoint(other, saved.folder, identity, saved.digest).completed_steps).toBe(0);
  });

  test("what a dead writer left goes with the next checkpoint; old ones go, protected ones stay", () => {
    const at = join(folder, "old");
    using trainer = open();
    for (let i = 0; i < 4; i++) {
      trainer.step();
      saveCheckpoint(trainer, at, identity);
    }
    writeFileSync(join(at, "step-x"), "");
    removeOldCheckpoints(at, 2, [1]);
    expect(readdirSync(at).sort()).toEqual(["step-1", "step-3", "step-4", "step-x"]);
  });
});
