import { measureRoofline, type Roofline } from "../../backends/index.ts";
import { type ModelFiles, openModelFiles } from "../../models/files/source.ts";
import type { CacheType, Model } from "../../models/model.ts";
import { openTokenizer } from "../../models/open_tokenizer.ts";
import { loadModel, readModel } from "../../models/registry.ts";
import type { Device, DeviceInfo } from "../../runtime/device.ts";
import { command, UsageError, wholeNumber, wholeNumbers } from "../../terminal/command.ts";
import { messages, print, printJson } from "../../terminal/output.ts";
import { Progress } from "../../terminal/progress.ts";
import { readableBytes, readableCount, table } from "../../terminal/table.ts";
import { gpuLayersNote } from "../engine/gpu_layers.ts";
import { openEngineDevice } from "../engine/load.ts";
import { type BenchCase, type BenchSamples, CaseRunner, caseName, runCase } from "./bench_steps.ts";
import { engineArgs, engineOptions } from "./engine_options.ts";

const { "ctx-size": _context, ...deviceArgs } = engineArgs;

export const bench = command({
  meta: {
    name: "bench",
    description:
      "Measures prompt processing (pp) and generation (tg), named as llama-bench does, against what this machine's memory and arithmetic reach in plain loops; on a GPU against what a copy inside its memory reaches.",
  },
  args: {
    ...deviceArgs,
    prompt: {
      type: "string",
      alias: "p",
      default: "512",
      valueHint: "N,..",
      description: "Prompt lengths, tokens; 0 for none",
    },
    generate: {
      type: "string",
      alias: "n",
      default: "128",
      valueHint: "N,..",
      description: "Tokens to generate; 0 for none",
    },
    depth: {
      type: "string",
      alias: "d",
      default: "0",
      valueHint: "N,..",
      description: "Tokens in the cache beforehand",
    },
    batch: { type: "string", alias: "b", default: "1", valueHint: "N,..", description: "Sequences at once" },
    repeats: {
      type: "string",
      alias: "r",
      default: "3",
      valueHint: "N",
      description: "Runs of each test; the median is reported",
    },
    json: { type: "boolean", description: "Print the results as JSON" },
  },
  examples: ["psionic bench", "psionic bench -m model.gguf -p 512,2048 -n 128 -d 0,4096 -b 1,8 --json"],
  async run({ args }) {
    const cases = casesOf(args);
    const repeats = wholeNumber(args.repeats, "--repeats", 1, 1000)!;
    const options = engineOptions(args);
    const start = performance.now();
    const files = openModelFiles(options.modelPath);
    const { config } = readModel(files);
    for (const note of checkLengths(cases, config.contextLength)) messages.warn(note);
    const layersNote = gpuLayersNote(config.layers, options.gpuLayers, options.backend);
    if (layersNote) messages.warn(layersNote);
    const device = openEngineDevice(options);
    const progress = new Progress();
    const model = loadModel(device, files, {
      ...(options.numerics ? { numerics: options.numerics } : {}),
      onProgress: (done, total) => progress.update("weights", done, total),
    });
    progress.end();
    if (hasTokenizer(files)) openTokenizer(files);
    const loadMs = performance.now() - start;
    const firstTokenMs = loadMs + firstToken(device, model, options.cacheType as CacheType);
    try {
      const measured: Roofline[] = [];
      const measure = () => {
        const limits = measureRoofline(options.backend, rooflineBytes[options.backend]);
        measured.push(limits);
        return limits;
      };
      const results = cases.map((test) => {
        if (!args.json) messages.info(`${caseName(test)} ...`);
        return resultOf(test, runCase(device, model, options.cacheType as CacheType, test, repeats, measure));
      });
      const roofline = medianRoofline(measured);
      const report = {
        model: describe(options.modelPath, model),
        device: device.backend.info(),
        roofline,
        loadMs,
        firstTokenMs,
        results,
      };
      if (args.json) await printJson(report);
      else await print(reportText(report));
    } finally {
      model.free();
      device.close();
    }
  },
});

/** Files for measurements may come without one. */
function hasTokenizer(files: ModelFiles): boolean {
  return files.kind === "gguf" ? files.metadata.has("tokenizer.ggml.model") : files.tokenizer !== undefined;
}

function firstToken(device: Device, model: Model, cacheType: CacheType): number {
  const test: BenchCase = { kind: "prompt", tokens: 1, depth: 0, batch: 1 };
  const start = performance.now();
  const runner = new CaseRunner(device, model, cacheType, test);
  runner.wholePrompt();
  runner.free();
  return performance.now() - start;
}

type Lists = {
  readonly prompt: string;
  readonly generate: string;
  readonly depth: string;
  readonly batch: string;
};

function casesOf(args: Lists): BenchCase[] {
  const most = 2 ** 22;
  const prompts = wholeNumbers(args.prompt, "-p", 0, most).filter((n) => n > 0);
  const generations = wholeNumbers(args.generate, "-n", 0, most).filter((n) => n > 0);
  const cases: BenchCase[] = [];
  for (const batch of wholeNumbers(args.batch, "-b", 1, 256)) {
    for (const depth of wholeNumbers(args.depth, "-d", 0, most)) {
      for (const tokens of prompts) cases.push({ kind: "prompt", tokens, depth, batch });
      for (const tokens of generations) cases.push({ kind: "generation", tokens, depth, batch });
    }
  }
  if (cases.length === 0) throw new UsageError("-p and -n are both 0: nothing to measure");
  return cases;
}

/**
 * Refuses depths and prompts that the model's context does not hold, before anything is loaded. Tokens that only reach
 * past it are measured, as llama-bench does, with a note: their speed is real, their text would not be.
 */
export function checkLengths(cases: readonly BenchCase[], contextLength: number): string[] {
  return cases.flatMap((test) => {
    const { kind, tokens, depth } = test;
    for (const [option, length] of [
      ["-d", depth] as const,
      ["-p", kind === "prompt" ? tokens : 0] as const,
    ]) {
      if (length > contextLength) {
        throw new UsageError(`${option} ${length} is beyond the model's context of ${contextLength} tokens`);
      }
    }
    const end = depth + tokens;
    return end > contextLength
      ? [`${caseName(test)} ends at token ${end}, past the model's context of ${contextLength}`]
      : [];
  });
}

type BenchResult = {
  readonly test: string;
  readonly n_prompt: number;
  readonly n_gen: number;
  readonly n_depth: number;
  readonly n_batch: number;
  /** Median over the repeats, all sequences together. */
  readonly tokens_per_second: number;
  readonly samples_seconds: readonly number[];
  /** Of one repeat, by the op table's costs. */
  readonly bytes: number;
  readonly flops: number;
  readonly bytes_per_token: number;
  /** Tokens a second if those bytes moved at the measured bandwidth; generation only. */
  readonly roofline_tokens_per_second?: number;
  /** Mean number of different experts per layer that a step reads. */
  readonly distinct_experts?: number;
  readonly gb_per_second: number;
  readonly gflop_per_second: number;
  readonly share_of_read_bandwidth: number;
  /** Absent where the library measures no such peak. */
  readonly share_of_int8_peak?: number;
};

/** Beyond any cache, and read in some milliseconds. */
const rooflineBytes = {
  ...{ cpu: 256 * 2 ** 20, cuda: 512 * 2 ** 20, metal: 512 * 2 ** 20 },
  "metal-standin": 2 ** 20,
};

function medianOf(numbers: readonly number[]): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)]!;
}

function medianRoofline(measured: readonly Roofline[]): Roofline {
  return {
    readGbPerSecond: medianOf(measured.map((m) => m.readGbPerSecond)),
    int8GopPerSecond: medianOf(measured.map((m) => m.int8GopPerSecond)),
    f32GflopPerSecond: medianOf(measured.map((m) => m.f32GflopPerSecond)),
  };
}

function resultOf(test: BenchCase, { seconds, cost, limits }: BenchSamples): BenchResult {
  const median = medianOf(seconds);
  const gbPerSecond = cost.bytes / median / 1e9;
  const gflopPerSecond = cost.flops / median / 1e9;
  /** Median over the repeats of a rate against the mean of the limits measured before and after it. */
  const share = (amount: number, limit: (r: Roofline) => number) =>
    limit(limits[0]!) === 0
      ? undefined
      : medianOf(seconds.map((s, i) => amount / s / 1e9 / ((limit(limits[i]!) + limit(limits[i + 1]!)) / 2)));
  const produced = test.tokens * test.batch;
  const int8 = share(cost.flops, (r) => r.int8GopPerSecond);
  const rooflineSeconds = cost.bytes / 1e9 / medianOf(limits.map((r) => r.readGbPerSecond));
  return {
    test: caseName(test),
    n_prompt: test.kind === "prompt" ? test.tokens : 0,
    n_gen: test.kind === "generation" ? test.tokens : 0,
    n_depth: test.depth,
    n_batch: test.batch,
    tokens_per_second: produced / median,
    samples_seconds: seconds,
    bytes: cost.bytes,
    flops: cost.flops,
    bytes_per_token: cost.bytes / produced,
    gb_per_second: gbPerSecond,
    gflop_per_second: gflopPerSecond,
    ...(test.kind === "generation" ? { roofline_tokens_per_second: produced / rooflineSeconds } : {}),
    ...(cost.distinctExperts === undefined ? {} : { distinct_experts: cost.distinctExperts }),
    share_of_read_bandwidth: share(cost.bytes, (r) => r.readGbPerSecond)!,
    ...(int8 === undefined ? {} : { share_of_int8_peak: int8 }),
  };
}

type Report = {
  readonly model: ReturnType<typeof describe>;
  readonly device: DeviceInfo;
  /** Medians; each result's shares are against the limits measured right beside it. */
  readonly roofline: Roofline;
  readonly loadMs: number;
  /** From the start of loading to the first token after a prompt of one. */
  readonly firstTokenMs: number;
  readonly results: readonly BenchResult[];
};

function describe(path: string, { config, parameters, weightBytes }: Model) {
  return { path, architecture: config.architecture, name: config.name, parameters, weightBytes };
}

function reportText({ model, device, roofline, loadMs, firstTokenMs, results }: Report): string {
  const head = `${model.name} (${model.architecture}, ${readableCount(model.parameters)} parameters, ${readableBytes(model.weightBytes)}), loaded in ${Math.round(loadMs)} ms, first token at ${Math.round(firstTokenMs)} ms`;
  const facts = Object.entries(device).map(([key, value]) => `${key}=${value}`);
  // arithmetic in plain loops is measured on a CPU only
  const rows = roofline.int8GopPerSecond > 0 ? cpuTable(results) : gpuTable(results);
  return [head, facts.join(" "), limitsText(roofline), "", rows].join("\n");
}

function limitsText({ readGbPerSecond, int8GopPerSecond, f32GflopPerSecond }: Roofline): string {
  if (int8GopPerSecond === 0) return `measured: copy ${readGbPerSecond.toFixed(0)} GB/s`;
  return `measured: read ${readGbPerSecond.toFixed(1)} GB/s, int8 ${int8GopPerSecond.toFixed(0)} Gop/s, f32 ${f32GflopPerSecond.toFixed(0)} Gflop/s`;
}

const percent = (share: number | undefined) => (share === undefined ? "" : `${(100 * share).toFixed(0)} %`);

function cpuTable(results: readonly BenchResult[]): string {
  const rows = results.map((r) => [
    r.test,
    r.tokens_per_second.toFixed(2),
    r.gb_per_second.toFixed(2),
    percent(r.share_of_read_bandwidth),
    r.gflop_per_second.toFixed(1),
    percent(r.share_of_int8_peak),
  ]);
  return table([["test", "tokens/s", "GB/s", "of read", "Gflop/s", "of int8"], ...rows], [1, 2, 3, 4, 5]);
}

/** Beside each rate of generation the one at which its bytes would move as fast as a copy. */
function gpuTable(results: readonly BenchResult[]): string {
  const head = ["test", "tokens/s", "roofline", "GB/s", "of copy", "MB/token", "Tflop/s", "experts/layer"];
  const rows = results.map((r) => [
    r.test,
    r.tokens_per_second.toFixed(1),
    r.roofline_tokens_per_second?.toFixed(0) ?? "",
    r.gb_per_second.toFixed(0),
    percent(r.share_of_read_bandwidth),
    (r.bytes_per_token / 1e6).toFixed(1),
    (r.gflop_per_second / 1e3).toFixed(1),
    r.distinct_experts?.toFixed(1) ?? "",
  ]);
  return table([head, ...rows], [1, 2, 3, 4, 5, 6, 7]);
}
