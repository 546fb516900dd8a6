import { closeSync, openSync, writeSync } from "node:fs";
import { openDevice } from "../../backends/index.ts";
import { PsionicError, unexpected } from "../../core/error.ts";
import type { Device } from "../../runtime/device.ts";
import { command, list, UsageError, wholeNumber } from "../../terminal/command.ts";
import { Progress } from "../../terminal/progress.ts";
import { freeCachePool, makeCachePool, pageSize } from "../cache.ts";
import { openModelFiles } from "../files/source.ts";
import type { CachePool, CacheType, Model } from "../model.ts";
import { modelOption, modelPath } from "../model_option.ts";
import { loadModel } from "../registry.ts";
import { parseIds, readText } from "./input.ts";

/** Rows of one forward pass: bounds the memory that logits of large vocabularies take. */
const chunkTokens = 128;

export const logits = command({
  meta: {
    name: "logits",
    description: "Writes the logits of a list of token ids: little-endian f32 [T, V], row t after token t.",
  },
  args: {
    ...modelOption,
    ids: {
      type: "string",
      valueHint: "FILE",
      description: "Token ids: a JSON array, or white space between them",
    },
    out: { type: "string", valueHint: "FILE", description: "File to write" },
    backend: {
      type: "enum",
      options: list("auto", "cpu", "cuda", "metal"),
      default: "auto",
      description: "Device to compute on; this build has the CPU, which auto takes",
    },
    numerics: {
      type: "enum",
      options: list("reference", "ggml"),
      default: "reference",
      description: "Follow the reference implementation, or ggml where the two differ",
    },
    "cache-type": {
      type: "enum",
      options: list("f32", "f16", "bf16", "q8_0"),
      default: "f32",
      description: "Element type of the key-value cache",
    },
    threads: {
      type: "string",
      alias: "t",
      valueHint: "N",
      description: "Threads; absent: one per physical core",
    },
    isa: {
      type: "enum",
      options: list("plain", "avx2", "avx512", "neon"),
      description: "Instruction set of the kernels; absent: the best this machine has",
    },
  },
  examples: ["psionic logits -m model.gguf --ids ids.json --out logits.f32"],
  run({ args }) {
    const { ids: idsPath, out } = args;
    if (idsPath === undefined) throw new UsageError("missing --ids FILE");
    if (out === undefined) throw new UsageError("missing --out FILE");
    if (args.backend !== "auto" && args.backend !== "cpu") {
      const text = `[backend] expected auto or cpu, got ${args.backend}. This build has no ${args.backend} backend`;
      throw new PsionicError("unsupported", text);
    }
    const threads = wholeNumber(args.threads, "--threads", 1, 1024);
    const text = readText(idsPath, "--ids");
    const files = openModelFiles(modelPath(args.model));
    const device = openDevice("cpu", { threads, isa: args.isa });
    const progress = new Progress();
    const model = loadModel(device, files, {
      numerics: args.numerics === "ggml" ? "ggml" : "reference",
      onProgress: (done, total) => progress.update("weights", done, total),
    });
    progress.end();
    const ids = parseIds(text, idsPath, model.config.vocabularySize);
    const handle = openOutput(out);
    try {
      writeLogits(device, model, ids, args["cache-type"] as CacheType, handle);
    } finally {
      closeSync(handle);
      model.free();
      device.close();
    }
  },
});

function openOutput(path: string): number {
  try {
    return openSync(path, "w");
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw unexpected("io_failed", "--out", "a file that can be written", reason, { cause });
  }
}

/** Runs the ids as one sequence, a chunk at a time, and writes every row's logits. */
function writeLogits(
  device: Device,
  model: Model,
  ids: readonly number[],
  cacheType: CacheType,
  handle: number,
): void {
  const pages = Math.ceil(ids.length / pageSize);
  const pools = model.cacheGroups.map((group) => makeCachePool(device, group, cacheType, pages));
  const progress = new Progress({ format: String });
  for (let from = 0; from < ids.length; from += chunkTokens) {
    writeChunk(device, model, ids.slice(from, from + chunkTokens), from, pages, pools, handle);
    progress.update("tokens", from, ids.length);
  }
  progress.end();
  for (const pool of pools) freeCachePool(device, pool);
}

function writeChunk(
  device: Device,
  model: Model,
  tokens: readonly number[],
  from: number,
  pages: number,
  pools: readonly CachePool[],
  handle: number,
): void {
  using _scope = device.scope();
  const count = tokens.length;
  const ints = (values: Iterable<number>, ...shape: number[]) =>
    device.fromHost("i32", shape, Int32Array.from(values));
  const rows = Array.from({ length: count }, (_, i) => i);
  const result = model.forward({
    tokens: ints(tokens, count),
    positions: ints(
      rows.map((i) => from + i),
      count,
    ),
    sequences: ints(new Int32Array(count), count),
    pageTables: pools.map(() =>
      ints(
        Array.from({ length: pages }, (_, i) => i),
        1,
        pages,
      ),
    ),
    pools,
    outputRows: ints(rows, count),
  });
  const bytes = device.download(result);
  for (let at = 0; at < bytes.length; ) at += writeSync(handle, bytes, at);
}
