/**
 * Which matrix products of training NVIDIA's cuBLASLt makes faster than psionic's kernels on this card: every shape that a
 * step of GPT-2 124M (64 x 1024 tokens) and of the golf baseline asks of `gemm` and that cuBLASLt may take, each timed by
 * both, and what `train` would choose; then whole steps with psionic's kernels alone and with the choices.
 * Usage: bun scripts/gpu/cublaslt.ts [gpt2] [golf] [--sequences 64] [--length 1024] [--steps 10] [--warm 3] [--tiny]
 *          [--json FILE]      PSIONIC_CUBLASLT_LIBRARY names its file where libcublasLt.so.13 or .12 is not found.
 * Output: per shape milliseconds and Tflop/s of both, cuBLASLt's share of psionic's time, the choice, how far the results
 *         are apart (of their norm); then milliseconds a step. Exits 1 where cuBLASLt gives other bits at a second run, or
 *         results more than 1e-2 from psionic's. --tiny: small shapes, to try the script without a card; --steps 0: no steps.
 */
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import {
  Cublaslt,
  isFaster,
  type MeasuredProduct,
  measureProducts,
  Operands,
  openDevice,
  type ProductShape,
} from "../../src/backends/index.ts";
import { type HostBatch, windowsOf } from "../../src/data/batches.ts";
import type { Device } from "../../src/runtime/device.ts";
import type { TrainedModel } from "../../src/train/model.ts";
import { golf, golfBaseline } from "../../src/train/models/golf.ts";
import { gpt2, gpt2Small } from "../../src/train/models/gpt2.ts";
import { adamWGroups, muonGroups, type ParameterGroup } from "../../src/train/optimizer/config.ts";
import { ProductShapes } from "../../src/train/products.ts";
import { Trainer, type TrainerConfig } from "../../src/train/trainer.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ...{ sequences: { type: "string", default: "64" }, length: { type: "string", default: "1024" } },
    ...{ steps: { type: "string", default: "10" }, warm: { type: "string", default: "3" } },
    ...{ tiny: { type: "boolean", default: false }, json: { type: "string" } },
  },
});
const length = Number(values.length);
const sequences = Number(values.sequences);
const mostApart = 1e-2;

type Case = { readonly model: TrainedModel; readonly groups: readonly ParameterGroup[] };

const small = { width: 64, layers: 1, heads: 2, contextLength: length } as const;
const cases: Readonly<Record<string, () => Case>> = {
  gpt2: () => ({
    model: gpt2(values.tiny ? { ...small, vocabularySize: 320 } : { ...gpt2Small, contextLength: length }),
    groups: adamWGroups(0.1),
  }),
  golf() {
    const narrow = { ...small, kvHeads: 1, headDim: 32, layers: 3, vocabularySize: 320 };
    const config = { ...golfBaseline, ...(values.tiny && narrow), contextLength: length };
    return { model: golf(config), groups: muonGroups(1) };
  },
};

function trainerOf(device: Device, { model, groups }: Case, initial: "seed" | "none"): Trainer {
  const windows = windowsOf([new Int32Array(length + 1)], length, length);
  const config: TrainerConfig = {
    ...{ seed: 1, sequences, accumulation: 1, learningRate: 6e-4, clip: 1, precision: "bf16" },
    ...{ recompute: false, schedule: { kind: "constant" }, groups },
  };
  return new Trainer(device, model, windows, config, initial);
}

/** Products of one step, from its shapes alone. */
function shapesOf(chosen: Case): readonly ProductShape[] {
  const shapes = new ProductShapes();
  const device = openDevice("meta", { like: "cuda" });
  try {
    device.listeners.add(shapes.hear);
    using trainer = trainerOf(device, chosen, "none");
    trainer.step();
  } finally {
    device.close();
  }
  return shapes.all;
}

function batchOf(vocabulary: number): () => HostBatch {
  const rows = sequences * length;
  const positions = Int32Array.from({ length: rows }, (_, i) => i % length);
  const tokens = Int32Array.from({ length: rows + 1 }, (_, i) => (i * 7919 + (i % 97) * 31) % vocabulary);
  const batch = { sequences, length, tokens: tokens.slice(0, rows), targets: tokens.slice(1), positions };
  return () => batch;
}

function msPerStep(device: Device, chosen: Case): { readonly ms: number; readonly loss: number } {
  const batch = batchOf(chosen.model.vocabularySize);
  using trainer = trainerOf(device, chosen, "seed");
  let loss = 0;
  const run = (count: number): void => {
    for (let i = 0; i < count; i++) loss = trainer.stepOn([batch]).loss;
  };
  run(Number(values.warm));
  const begun = performance.now();
  run(Number(values.steps));
  return { ms: (performance.now() - begun) / Number(values.steps), loss };
}

/** The leading part of a result is enough to compare, and small enough to bring here. */
const comparedRows = 64;

function resultsOf(device: Device, operands: Operands, { n, dtype }: ProductShape): Float32Array {
  operands.multiply();
  const { address } = operands.result;
  const bytes = device.backend.read(address, comparedRows * n * (dtype === "f32" ? 4 : 2));
  if (dtype === "f32") return new Float32Array(bytes.buffer);
  return new Float32Array(Uint32Array.from(new Uint16Array(bytes.buffer), (half) => half << 16).buffer);
}

type Compared = { readonly apart: number; readonly again: boolean };

/** How far cuBLASLt's results are from psionic's, as a share of their norm, and whether it gives the same bits again. */
function compared(device: Device, library: Cublaslt, shape: ProductShape, algorithm: string): Compared {
  using operands = new Operands(device, shape);
  const own = resultsOf(device, operands, shape);
  library.use(shape, algorithm);
  try {
    const theirs = resultsOf(device, operands, shape);
    const again = resultsOf(device, operands, shape);
    let [error, size] = [0, 1e-30];
    for (const [i, v] of own.entries()) {
      error += (theirs[i]! - v) ** 2;
      size += v * v;
    }
    const same = Buffer.from(theirs.buffer).equals(Buffer.from(again.buffer));
    return { apart: Math.sqrt(error / size), again: same };
  } finally {
    library.use(shape, undefined);
  }
}

function line(p: MeasuredProduct, check: Compared | undefined): string {
  const rate = (ms: number): string =>
    `${ms.toFixed(3).padStart(8)} ms ${((2 * p.batch * p.m * p.n * p.k) / ms / 1e9).toFixed(0).padStart(5)} Tflop/s`;
  const turned = `${p.transA ? "T" : "N"}${p.transB ? "T" : "N"}`;
  const name = `${p.batch > 1 ? `${p.batch} x ` : ""}${p.m} x ${p.n} x ${p.k} ${turned} ${p.dtype}`;
  if (p.cublasltMs === null || !check)
    return `${name.padEnd(34)} psionic ${rate(p.ownMs)}   cuBLASLt has none`;
  const share = `${((100 * p.cublasltMs) / p.ownMs).toFixed(0)} %`.padStart(6);
  const choice = isFaster(p) ? "cuBLASLt" : "psionic";
  const bits = check.again ? "" : ", OTHER BITS AGAIN";
  return `${name.padEnd(34)} psionic ${rate(p.ownMs)}   cuBLASLt ${rate(p.cublasltMs)} ${share}   ${choice.padEnd(8)} apart ${check.apart.toExponential(1)}${bits}`;
}

const report: unknown[] = [];
let failed = false;
for (const name of positionals.length > 0 ? positionals : Object.keys(cases)) {
  const make = cases[name];
  if (!make) throw new Error(`[cublaslt] expected one of ${Object.keys(cases).join(", ")}, got ${name}`);
  const chosen = make();
  const device = openDevice("cuda");
  {
    using library = new Cublaslt();
    console.log(`${name}: cuBLASLt ${library.version} on ${device.backend.info().device}`);
    const products = measureProducts(device, library, shapesOf(chosen));
    for (const p of products) {
      const check = p.algorithm === null ? undefined : compared(device, library, p, p.algorithm);
      if (check && (!check.again || !(check.apart <= mostApart))) failed = true;
      console.log(line(p, check));
      report.push({ model: name, cublaslt: library.version, ...p, ...check, faster: isFaster(p) });
    }
    if (Number(values.steps) > 0) {
      const own = msPerStep(device, chosen);
      for (const p of products) if (isFaster(p)) library.use(p, p.algorithm!);
      const both = msPerStep(device, chosen);
      const words = ({ ms, loss }: typeof own): string =>
        `${ms.toFixed(2)} ms a step, loss ${loss.toFixed(4)}`;
      console.log(`${name}: psionic alone ${words(own)}; with the choices ${words(both)}`);
      report.push({ model: name, psionicStep: own, chosenStep: both });
    }
  }
  device.close();
}
if (values.json) writeFileSync(values.json, `${JSON.stringify(report, null, 1)}\n`);
if (failed) process.exit(1);
