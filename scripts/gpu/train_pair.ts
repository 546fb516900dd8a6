/**
 * Training on several GPUs of one host through NCCL, a process each: steps of GPT-2 124M, the same microbatches on one
 * device and then on all, losses and speeds side by side.
 * Usage: bun scripts/gpu/train_pair.ts [--devices 2] [--steps 10] [--warm 3] [--sequences 32] [--length 1024]
 *          [--accumulation 4] [--tiny]      PSIONIC_NCCL_LIBRARY names NCCL's file where libnccl.so.2 is not found.
 * Output: milliseconds a step and tokens a second of both, the speed-up, and the largest difference of their losses. Exits 1
 *         where replicas end with other parameters than one another, or losses are no numbers or more than 1e-3 apart.
 */
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { DeviceGroup, makeGroupId, openDevice } from "../../src/backends/index.ts";
import { sha256 } from "../../src/core/digest.ts";
import { type HostBatch, windowsOf } from "../../src/data/batches.ts";
import { gpt2, gpt2Small } from "../../src/train/models/gpt2.ts";
import { adamWGroups } from "../../src/train/optimizer/config.ts";
import { Trainer, type TrainerConfig } from "../../src/train/trainer.ts";

const { values } = parseArgs({
  options: {
    ...{ devices: { type: "string", default: "2" }, steps: { type: "string", default: "10" } },
    ...{ warm: { type: "string", default: "3" }, sequences: { type: "string", default: "32" } },
    ...{ length: { type: "string", default: "1024" }, accumulation: { type: "string", default: "4" } },
    ...{ tiny: { type: "boolean", default: false }, rank: { type: "string" }, folder: { type: "string" } },
  },
});
const number = (name: keyof typeof values): number => Number(values[name]);
const [sequences, length, accumulation] = [number("sequences"), number("length"), number("accumulation")];

/** A member that finds no other gives up. */
const longestWaitMs = 60_000;

/** What losses of one device and of several may be apart: sums in another order, in bf16. */
const mostApart = 1e-3;

/** A loss that is no number is null, as JSON has it. */
type Result = {
  readonly msPerStep: number;
  readonly losses: readonly (number | null)[];
  /** SHA-256 of the parameters. */
  readonly digest: string;
};

function batchOf(i: number, vocabulary: number): HostBatch {
  const rows = sequences * length;
  const tokens = Int32Array.from(
    { length: rows + 1 },
    (_, r) => (r * 7919 + i * 104729 + (r % 97)) % vocabulary,
  );
  const positions = Int32Array.from({ length: rows }, (_, r) => r % length);
  return { sequences, length, tokens: tokens.slice(0, rows), targets: tokens.slice(1), positions };
}

/** This process's part; files of the folder are how the processes find each other. */
async function member(rank: number, count: number, folder: string): Promise<Result> {
  const device = openDevice("cuda", { number: existsSync("/dev/nvidia0") ? rank : 0 });
  const idFile = join(folder, "id");
  if (count > 1 && rank === 0) {
    writeFileSync(`${idFile}.part`, makeGroupId());
    renameSync(`${idFile}.part`, idFile);
  }
  while (count > 1 && !existsSync(idFile)) {
    if (performance.now() > longestWaitMs) throw new Error("[train_pair] the first member did not come");
    await Bun.sleep(5);
  }
  using group = count > 1 ? new DeviceGroup(readFileSync(idFile), rank, count) : undefined;
  const small = { width: 64, layers: 1, heads: 2, vocabularySize: 320 };
  const model = gpt2({ ...gpt2Small, ...(values.tiny && small), contextLength: length });
  const windows = windowsOf([new Int32Array(length + 1)], length, length);
  const config: TrainerConfig = {
    ...{ seed: 1, sequences, accumulation, learningRate: 6e-4, clip: 1, recompute: false },
    ...{ precision: "bf16", schedule: { kind: "constant" }, groups: adamWGroups(0.1) },
  };
  const losses: number[] = [];
  let [msPerStep, digest] = [0, ""];
  {
    using trainer = new Trainer(device, model, windows, config, "seed", group);
    const micro = Array.from({ length: accumulation }, (_, i) => batchOf(i, model.vocabularySize));
    const steps = (n: number): void => {
      for (let i = 0; i < n; i++) losses.push(trainer.stepOn(micro.map((b) => () => b)).loss);
    };
    steps(number("warm"));
    const begun = performance.now();
    steps(number("steps"));
    msPerStep = (performance.now() - begun) / number("steps");
    digest = sha256(device.download(trainer.parameters.values));
  }
  return { msPerStep, losses, digest };
}

/** Runs `count` members as processes; the first one's result, whose parameters are those of all. */
async function run(count: number): Promise<Result> {
  const folder = mkdtempSync(join(tmpdir(), "psionic-pair-"));
  try {
    const own = process.argv.slice(2);
    const children = Array.from({ length: count }, (_, rank) =>
      Bun.spawn(
        [
          process.execPath,
          import.meta.path,
          ...own,
          "--devices",
          String(count),
          "--rank",
          String(rank),
          "--folder",
          folder,
        ],
        { stdout: "pipe", stderr: "inherit" },
      ),
    );
    // one that fails leaves the others waiting
    for (const child of children) {
      child.exited.then((code) => {
        if (code !== 0) for (const other of children) other.kill();
      });
    }
    const outs = await Promise.all(children.map((c) => new Response(c.stdout).text()));
    const codes = await Promise.all(children.map((c) => c.exited));
    if (codes.some((c) => c !== 0)) throw new Error(`[train_pair] a member ended with ${codes.join(", ")}`);
    const results = outs.map((text) => JSON.parse(text) as Result);
    const digests = new Set(results.map((r) => r.digest));
    if (digests.size > 1)
      throw new Error(`[train_pair] expected replicas of one digest, got ${[...digests].join(", ")}`);
    return results[0]!;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (values.rank !== undefined) {
  console.log(JSON.stringify(await member(Number(values.rank), number("devices"), values.folder!)));
  process.exit(0);
}
const count = number("devices");
const [one, all] = [await run(1), await run(count)];
const tokens = sequences * length * accumulation;
for (const [name, { msPerStep }] of [
  ["1 device", one],
  [`${count} devices`, all],
] as const) {
  console.log(
    `${name.padEnd(10)} ${msPerStep.toFixed(1)} ms a step, ${((tokens * 1000) / msPerStep).toFixed(0)} tokens/s`,
  );
}
const apart = Math.max(
  ...one.losses.map((l, i) => Math.abs((l ?? Number.NaN) - (all.losses[i] ?? Number.NaN))),
);
console.log(
  `speed-up ${(one.msPerStep / all.msPerStep).toFixed(2)}, losses at most ${apart.toExponential(2)} apart`,
);
if (!(apart <= mostApart)) {
  console.error(`[train_pair] expected losses at most ${mostApart} apart, got ${apart}`);
  process.exit(1);
}
