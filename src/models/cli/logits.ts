import { openDevice } from "../../backends/index.ts";
import { AsideFile } from "../../core/aside.ts";
import type { Device } from "../../runtime/device.ts";
import { command, list, UsageError } from "../../terminal/command.ts";
import { Progress } from "../../terminal/progress.ts";
import {
  freeCachePool,
  freeStatePool,
  makeCachePool,
  makeStatePool,
  pageSize,
  stepStates,
} from "../cache.ts";
import { openModelFiles } from "../files/source.ts";
import type { CachePool, CacheType, Model, StatePool } from "../model.ts";
import { modelOption, modelPath } from "../model_option.ts";
import { loadModel } from "../registry.ts";
import { backendOption, deviceNumbers, resolveBackend } from "./backend_option.ts";
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
    ...backendOption,
    numerics: {
      type: "enum",
      options: list("reference", "ggml"),
      default: "reference",
      description: "Follow the reference implementation, or ggml where the two differ",
    },
    "cache-type": {
      type: "enum",
      options: list("f32", "f16", "bf16", "fp8", "q8_0"),
      default: "f32",
      description: "Element type of the key-value cache; fp8 (e4m3) not on Metal",
    },
    threads: {
      type: "string",
      alias: "t",
      valueHint: "N",
      description: "Threads of the CPU backend; absent: one per physical core",
    },
    isa: {
      type: "enum",
      options: list("plain", "avx2", "avx_vnni", "avx512", "amx", "neon"),
      description: "Instruction set of the CPU's kernels; absent: the best this machine has",
    },
  },
  examples: ["psionic logits -m model.gguf --ids ids.json --out logits.f32"],
  async run({ args }) {
    const { ids: idsPath, out } = args;
    if (idsPath === undefined) throw new UsageError("missing --ids FILE");
    if (out === undefined) throw new UsageError("missing --out FILE");
    const backend = resolveBackend(args.backend);
    const { device: number, threads } = deviceNumbers(args, backend);
    const text = readText(idsPath, "--ids");
    const files = openModelFiles(modelPath(args.model));
    // a place that cannot be written is better known before the weights are read
    AsideFile.check(out, "--out");
    const device =
      backend === "cpu"
        ? openDevice("cpu", { threads, isa: args.isa })
        : backend === "cuda"
          ? openDevice("cuda", { number })
          : openDevice(backend);
    const progress = new Progress();
    const model = loadModel(device, files, {
      numerics: args.numerics === "ggml" ? "ggml" : "reference",
      onProgress: (done, total) => progress.update("weights", done, total),
    });
    progress.end();
    try {
      const ids = parseIds(text, idsPath, model.config.vocabularySize);
      let file: AsideFile | undefined;
      using _ = onInterrupt(() => file?.[Symbol.dispose]());
      file = new AsideFile(out, "--out");
      using _file = file;
      await writeLogits(device, model, ids, args["cache-type"] as CacheType, file);
      file.keep();
    } finally {
      model.free();
      device.close();
    }
  },
});

/** Ctrl-C and a request to stop take effect between two chunks, when `clean` leaves no half file. */
function onInterrupt(clean: () => void): Disposable {
  const stop = (code: number) => () => {
    clean();
    process.exit(code);
  };
  const signals = [["SIGINT", stop(130)] as const, ["SIGTERM", stop(143)] as const];
  for (const [name, handler] of signals) process.on(name, handler);
  return {
    [Symbol.dispose]: () => {
      for (const [name, handler] of signals) process.off(name, handler);
    },
  };
}

/** Runs the ids as one sequence, a chunk at a time, and writes every row's logits. */
async function writeLogits(
  device: Device,
  model: Model,
  ids: readonly number[],
  cacheType: CacheType,
  file: AsideFile,
): Promise<void> {
  const pages = Math.ceil(ids.length / pageSize);
  const pools = model.cacheGroups.map((group) => makeCachePool(device, group, cacheType, pages));
  const states = model.recurrent && makeStatePool(device, model.recurrent, 1);
  const progress = new Progress({ format: String });
  try {
    for (let from = 0; from < ids.length; from += chunkTokens) {
      file.write(chunkLogits(device, model, ids.slice(from, from + chunkTokens), from, pages, pools, states));
      progress.update("tokens", from, ids.length);
      // a signal's turn
      await new Promise((resolve) => setImmediate(resolve));
    }
  } finally {
    progress.end();
    for (const pool of pools) freeCachePool(device, pool);
    if (states) freeStatePool(device, states);
  }
}

/** Logits of one chunk, f32 [T, V]. */
function chunkLogits(
  device: Device,
  model: Model,
  tokens: readonly number[],
  from: number,
  pages: number,
  pools: readonly CachePool[],
  states: StatePool | undefined,
): Uint8Array {
  using _scope = device.scope();
  const count = tokens.length;
  const ints = (values: Iterable<number>, ...shape: number[]) =>
    device.fromHost("i32", shape, Int32Array.from(values));
  const rows = Array.from({ length: count }, (_, i) => i);
  const sequences = ints(new Int32Array(count), count);
  const result = model.forward({
    tokens: ints(tokens, count),
    positions: ints(
      rows.map((i) => from + i),
      count,
    ),
    sequences,
    ...(states && { states: stepStates(device, states, sequences, [0]) }),
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
  return device.download(result);
}
