/**
 * Writes docs/metal-roofline.md: what each Metal kernel moves and computes for a generated token, a prompt and a step of
 * training, from the op table, and how long that takes at best on machines whose bandwidth is published, for the first
 * owner to compare with.
 * Usage: bun scripts/metal-roofline.ts [--check]     Output: the page; with --check only whether it is up to date.
 */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDevice } from "../src/backends/index.ts";
import { windowsOf } from "../src/data/batches.ts";
import type { Program, ProgramCall } from "../src/ir/program.ts";
import { ggufHeader } from "../src/models/files/gguf_writer.ts";
import { openModelFiles } from "../src/models/files/source.ts";
import { loadModel } from "../src/models/registry.ts";
import { record } from "../src/runtime/recorder.ts";
import { ModelExecutor } from "../src/serve/engine/executor.ts";
import { pagesFor } from "../src/serve/engine/pages.ts";
import { emptyBatch } from "../src/serve/engine/shape.ts";
import { gpt2 } from "../src/train/models/gpt2.ts";
import { adamWGroups } from "../src/train/optimizer/config.ts";
import { type RoundingConfig, Trainer, type TrainerConfig } from "../src/train/trainer.ts";
import { tensorBytes } from "./random-layout.ts";
import { randomModel, shapes } from "./random-model.ts";

const page = join(import.meta.dir, "../docs/metal-roofline.md");
const context = 4096;

type Machine = { readonly name: string; readonly gbPerSecond: number; readonly tflops: number };

/** Bandwidths as Apple publishes them; f32 rates are cores x 128 lanes x 2 x clock (Apple gives M2's: 3.6). */
const machines: readonly Machine[] = [
  { name: "M2 (10 cores)", gbPerSecond: 100, tflops: 3.6 },
  { name: "M3 Max (40 cores)", gbPerSecond: 400, tflops: 14.2 },
  { name: "M4 Max (40 cores)", gbPerSecond: 546, tflops: 16.2 },
];
/** What a launch costs beside its work, in one command buffer: an assumption to be replaced by a measurement. */
const launchUs = 1.5;
/** Share of the published bandwidth that plain copies reach on these machines. */
const reached = 0.85;
/** Products and attention have rows in eights (kernels/metal/README.md). */
const rowsAtOnce = 8;

type Row = { kernel: string; calls: number; bytes: number; flops: number };

/** One of the page's chapters: calls in order, and the tokens that they stand for. */
type Work = {
  readonly name: string;
  readonly about: string;
  readonly tokens: number;
  readonly program: Program;
};

/** Steps of a model of random weights over `tokens` tokens each, of which the last one's logits are wanted. */
function recordSteps(shapeName: string, expertDtype: "q8_0" | "mxfp4", tokens: readonly number[]) {
  const folder = mkdtempSync(join(tmpdir(), "psionic-roofline-"));
  const path = join(folder, "model.gguf");
  const shape = shapes[shapeName]!;
  const { metadata, tensors } = randomModel({ shape, dtype: "q8_0", expertDtype, seed: 1 });
  const header = ggufHeader(metadata, tensors);
  const file = openSync(path, "w");
  writeSync(file, header);
  // headers are all that is read
  const bytes = tensors.reduce((sum, t) => sum + Math.ceil(tensorBytes(t) / 32) * 32, header.length);
  ftruncateSync(file, bytes);
  closeSync(file);
  const device = openDevice("meta", { like: "metal" });
  try {
    const model = loadModel(device, openModelFiles(path), {});
    const groups = model.cacheGroups.map(({ window }) => ({ window, pages: pagesFor(context) }));
    const executor = new ModelExecutor(device, model, groups, "f16");
    const programs = tokens.map((count) =>
      record(device, () => {
        executor.run(emptyBatch(model, count, 1, pagesFor(context)), (logits) => {
          logits.argmax();
        });
      }),
    );
    const gb = (model.weightBytes / 1e9).toFixed(1);
    executor.free();
    model.free();
    return { programs, gb };
  } finally {
    device.close();
    rmSync(folder, { recursive: true });
  }
}

const inBlocks: RoundingConfig = {
  from: 0,
  formatOf: ({ class: kind, shape }) => (kind === "matrix" && shape.length === 2 ? "q8_0" : undefined),
};

/** A step of GPT-2's smallest size with AdamW, in f32, or in bf16 at the end of a run that finishes on the values of Q8_0. */
function recordTraining(precision: "f32" | "bf16"): Work {
  const [sequences, length] = [4, 1024];
  const model = gpt2({
    ...{ width: 768, layers: 12, heads: 12, vocabularySize: 50_257, contextLength: length },
  });
  const text = Int32Array.from({ length: sequences * (length + 1) }, (_, i) => i % 97);
  const device = openDevice("meta", { like: "metal" });
  try {
    const settings = { accumulation: 1, learningRate: 1e-3, clip: 1, precision } as const;
    const schedule = { kind: "warmup_cosine", warmup_steps: 1, total_steps: 10, min_learning_rate: 1e-4 };
    using trainer = new Trainer(
      device,
      model,
      windowsOf([text], length, length),
      {
        ...{ seed: 1, sequences, recompute: false, ...settings },
        ...{ groups: adamWGroups(0.01), schedule: schedule as TrainerConfig["schedule"] },
        ...(precision === "bf16" && { rounding: inBlocks }),
      },
      "none",
    );
    const finish = precision === "bf16" ? ", matrices as Q8_0 holds them" : "";
    return {
      name: `training step, ${precision}`,
      about: `GPT-2 of 124M parameters, ${sequences} sequences of ${length} tokens, AdamW, ${precision}${finish}`,
      tokens: sequences * length,
      program: record(device, () => {
        trainer.step();
      }),
    };
  } finally {
    device.close();
  }
}

function works(): Work[] {
  const prompt = 512;
  const sparse = recordSteps("gpt-oss-20b", "mxfp4", [1, prompt]);
  const hybrid = recordSteps("qwen35-9b", "q8_0", [1]);
  const gptOss = `gpt-oss-20b (${sparse.gb} GB: attention and embeddings Q8_0, experts MXFP4)`;
  return [
    { name: "token, gpt-oss-20b", about: `${gptOss}, a token`, tokens: 1, program: sparse.programs[0]! },
    {
      ...{ name: `prompt of ${prompt}, gpt-oss-20b`, about: `${gptOss}, ${prompt} tokens at once` },
      ...{ tokens: prompt, program: sparse.programs[1]! },
    },
    {
      ...{ name: "token, qwen35-9b", about: `qwen35-9b (${hybrid.gb} GB, Q8_0), a token` },
      ...{ tokens: 1, program: hybrid.programs[0]! },
    },
    recordTraining("f32"),
    recordTraining("bf16"),
  ];
}

function kernelOf({ op, inputs }: ProgramCall, { values }: Program): string {
  const weight = inputs
    .map((i) => values[i])
    .find((v) => v?.packed || (v?.kind === "weight" && op === "embedding"));
  return weight ? `${op}_${weight.dtype}` : op;
}

/** Rows that a tile of weights, or of keys, is multiplied with. */
function rowsOfWeights({ op, inputs, outputs, params }: ProgramCall, { values }: Program): number {
  const rows = values[outputs[0]!]!.shape[0]!;
  if (op === "matmul") return rows;
  if (op === "moe_matmul" || op === "moe_glu") {
    const experts = values[inputs[1]!]!.shape[0]!;
    return rows < 2 * experts ? 1 : rows / experts; // few slots are multiplied one by one
  }
  // from 32 tokens on a threadgroup has several
  if (op === "attention" && rows < 32) return Number(params.heads) / Number(params.kvHeads);
  return rowsAtOnce;
}

function rowsOf(program: Program): Row[] {
  const rows = new Map<string, Row>();
  for (const call of program.calls) {
    const kernel = kernelOf(call, program);
    const row = rows.get(kernel) ?? { kernel, calls: 0, bytes: 0, flops: 0 };
    row.calls++;
    row.bytes += call.cost.bytes;
    const given = rowsOfWeights(call, program);
    row.flops += call.cost.flops * ((Math.ceil(given / rowsAtOnce) * rowsAtOnce) / given);
    rows.set(kernel, row);
  }
  return [...rows.values()].sort((a, b) => b.bytes - a.bytes);
}

const bestUs = ({ bytes, flops }: Pick<Row, "bytes" | "flops">, m: Machine): number =>
  Math.max(bytes / m.gbPerSecond / 1e3, flops / m.tflops / 1e6);
const expectedUs = (row: Row, m: Machine): number =>
  Math.max(row.bytes / (m.gbPerSecond * reached) / 1e3, row.flops / (m.tflops * reached) / 1e6) +
  row.calls * launchUs;

const names = machines.map((m) => m.name);

/** Milliseconds at best, tokens a second at best and predicted, a line for each machine. */
function rates({ name, tokens }: Work, rows: readonly Row[]): string[] {
  return machines.map((m) => {
    const sum = (of: (row: Row, m: Machine) => number): number => rows.reduce((all, r) => all + of(r, m), 0);
    const [best, expected] = [sum(bestUs), sum(expectedUs)];
    const perSecond = (us: number): string => ((1e6 * tokens) / us).toFixed(0);
    return `| ${name} | ${m.name} | ${(best / 1e3).toFixed(2)} | ${perSecond(best)} | ${perSecond(expected)} |`;
  });
}

function chapter({ name, about }: Work, rows: readonly Row[]): string {
  const sum = (of: (row: Row) => number): number => rows.reduce((total, row) => total + of(row), 0);
  const us = (row: Row): string => machines.map((m) => bestUs(row, m).toFixed(0)).join(" | ");
  const table = rows.map(
    (row) =>
      `| \`${row.kernel}\` | ${row.calls} | ${(row.bytes / 1e6).toFixed(2)} | ${(row.flops / 1e6).toFixed(1)} | ${us(row)} |`,
  );
  const all = machines.map((m) => sum((r) => bestUs(r, m)).toFixed(0)).join(" | ");
  return `
## ${name[0]!.toUpperCase()}${name.slice(1)}

${about}.

| op | launches | MB | Mflop | ${names.map((n) => `${n}, us`).join(" | ")} |
|---|---|---|---|${names.map(() => "---").join("|")}|
${table.join("\n")}
| all | ${sum((r) => r.calls)} | ${(sum((r) => r.bytes) / 1e6).toFixed(1)} | ${(sum((r) => r.flops) / 1e6).toFixed(0)} | ${all} |
`;
}

function pageText(): string {
  const chapters = works().map((work) => ({ work, rows: rowsOf(work.program) }));
  const given = machines.map((m) => `${m.name}: ${m.gbPerSecond} GB/s, ${m.tflops} Tflop/s`).join("; ");
  return `# Metal: what a token costs
Made by \`bun scripts/metal-roofline.ts\` from the op table. Models serve one sequence with an f16 cache;
attention is counted over a table of ${context} positions. Nothing here was measured on a Mac. Compare with \`psionic bench --backend metal\` (a prompt and generated tokens), and the
bandwidth that is assumed with what \`psionic doctor --measure\` copies.

| work | machine | ms at best | tokens/s at best | tokens/s predicted |
|---|---|---|---|---|
${chapters.flatMap(({ work, rows }) => rates(work, rows)).join("\n")}

${given}.
Bandwidths are Apple's; f32 rates are cores x 128 lanes x 2 x clock, Apple's own number for M2. *At best*: each op at the slower of
published bandwidth and rate, nothing else. *Predicted*: ${reached * 100}% of both, and ${launchUs} us a launch; products of many rows may reach less. Products and
attention have rows in eights, one row too (\`kernels/metal/README.md\`, order of sums), which is counted as arithmetic. An op may be several kernels.
${chapters.map(({ work, rows }) => chapter(work, rows)).join("")}`;
}

const text = pageText();
if (!process.argv.includes("--check")) await Bun.write(page, text);
else if ((await Bun.file(page).text()) !== text) {
  console.error(
    "[metal-roofline] expected docs/metal-roofline.md as the op table has it. Run: bun scripts/metal-roofline.ts",
  );
  process.exit(1);
}
