/**
 * Writes docs/metal-roofline.md: what each Metal kernel moves and computes for a generated token of gpt-oss-20b, from the op
 * table, and how long that takes at best on machines whose bandwidth is published, for the first owner to compare with.
 * Usage: bun scripts/metal-roofline.ts [--check]     Output: the page; with --check only whether it is up to date.
 */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDevice } from "../src/backends/index.ts";
import type { Program, ProgramCall } from "../src/ir/program.ts";
import { ggufHeader } from "../src/models/files/gguf_writer.ts";
import { openModelFiles } from "../src/models/files/source.ts";
import { loadModel } from "../src/models/registry.ts";
import { record } from "../src/runtime/recorder.ts";

import { ModelExecutor } from "../src/serve/engine/executor.ts";
import { pagesFor } from "../src/serve/engine/pages.ts";
import { emptyBatch } from "../src/serve/engine/shape.ts";
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
/** A `matmul` of one row is computed as one of eight (kernels/metal/README.md); a product of experts is not. */
const productRows = 8;

type Row = { kernel: string; calls: number; bytes: number; flops: number };

/** The step that generates one token behind `context` others. */
function recordStep(): { readonly program: Program; readonly weightBytes: number } {
  const folder = mkdtempSync(join(tmpdir(), "psionic-roofline-"));
  const path = join(folder, "model.gguf");
  const shape = shapes["gpt-oss-20b"]!;
  const { metadata, tensors } = randomModel({ shape, dtype: "q8_0", expertDtype: "mxfp4", seed: 1 });
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
    const program = record(device, () => {
      executor.run(emptyBatch(model, 1, 1, pagesFor(context)), (logits) => {
        logits.argmax();
      });
    });
    const { weightBytes } = model;
    executor.free();
    model.free();
    return { program, weightBytes };
  } finally {
    device.close();
    rmSync(folder, { recursive: true });
  }
}

function kernelOf({ op, inputs }: ProgramCall, { values }: Program): string {
  const weight = inputs
    .map((i) => values[i])
    .find((v) => v?.packed || (v?.kind === "weight" && op === "embedding"));
  return weight ? `${op}_${weight.dtype}` : op;
}

function rowsOf(program: Program): Row[] {
  const rows = new Map<string, Row>();
  for (const call of program.calls) {
    const kernel = kernelOf(call, program);
    const row = rows.get(kernel) ?? { kernel, calls: 0, bytes: 0, flops: 0 };
    row.calls++;
    row.bytes += call.cost.bytes;
    row.flops += call.cost.flops * (/^matmul_/.test(kernel) ? productRows : 1);
    rows.set(kernel, row);
  }
  return [...rows.values()].sort((a, b) => b.bytes - a.bytes);
}

const bestUs = ({ bytes, flops }: Pick<Row, "bytes" | "flops">, m: Machine): number =>
  Math.max(bytes / m.gbPerSecond / 1e3, flops / m.tflops / 1e6);
const expectedUs = (row: Row, m: Machine): number =>
  Math.max(row.bytes / (m.gbPerSecond * reached) / 1e3, row.flops / (m.tflops * reached) / 1e6) +
  row.calls * launchUs;

function pageText(): string {
  const { program, weightBytes } = recordStep();
  const rows = rowsOf(program);
  const sum = (of: (row: Row) => number): number => rows.reduce((total, row) => total + of(row), 0);
  const table = rows.map(
    (row) =>
      `| \`${row.kernel}\` | ${row.calls} | ${(row.bytes / 1e6).toFixed(2)} | ${(row.flops / 1e6).toFixed(1)} | ` +
      `${machines.map((m) => bestUs(row, m).toFixed(0)).join(" | ")} |`,
  );
  const names = machines.map((m) => m.name);
  const rates = machines.map((m) => {
    const [best, expected] = [sum((r) => bestUs(r, m)), sum((r) => expectedUs(r, m))];
    return `| ${m.name} | ${m.gbPerSecond} | ${m.tflops} | ${(best / 1e3).toFixed(2)} | ${(1e6 / best).toFixed(0)} | ${(1e6 / expected).toFixed(0)} |`;
  });
  return `# Metal: what a token costs
Made by \`bun scripts/metal-roofline.ts\` from the op table: gpt-oss-20b (${(weightBytes / 1e9).toFixed(1)} GB: attention and embeddings
Q8_0, experts MXFP4), one sequence, a table of ${context} positions, cache f16. Nothing here was measured on a Mac. Compare with
\`psionic bench --backend metal\`, and each kernel with \`psionic doctor --measure\`'s copy rate.

| machine | GB/s | f32 Tflop/s | ms a token at best | tokens/s at best | tokens/s predicted |
|---|---|---|---|---|---|
${rates.join("\n")}

Bandwidths are Apple's; arithmetic rates are cores x 128 lanes x 2 x clock, Apple's own number for M2. *At best*: each kernel at the
slower of published bandwidth and rate, nothing else. *Predicted*: ${reached * 100}% of both, and ${launchUs} us a launch. A \`matmul\` of one row is computed as one of
${productRows} (\`kernels/metal/README.md\`, order of sums), which is counted as arithmetic.

| kernel | launches | MB | Mflop | ${names.map((n) => `${n}, us`).join(" | ")} |
|---|---|---|---|${names.map(() => "---").join("|")}|
${table.join("\n")}
| all | ${sum((r) => r.calls)} | ${(sum((r) => r.bytes) / 1e6).toFixed(1)} | ${(sum((r) => r.flops) / 1e6).toFixed(0)} | ${machines.map((m) => sum((r) => bestUs(r, m)).toFixed(0)).join(" | ")} |
`;
}

const text = pageText();
if (!process.argv.includes("--check")) await Bun.write(page, text);
else if ((await Bun.file(page).text()) !== text) {
  console.error(
    "[metal-roofline] expected docs/metal-roofline.md as the op table has it. Run: bun scripts/metal-roofline.ts",
  );
  process.exit(1);
}
