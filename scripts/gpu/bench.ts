/** The figures of the large model: decode by depth and batch, prompts, start, memory; with the roofline of the file. */
import { openModelFiles } from "../../src/models/files/source.ts";
import {
  atLeast,
  atMost,
  type Check,
  gib,
  json,
  lastLines,
  median,
  psionic,
  type Row,
  ran,
  served,
  usedMemory,
} from "./check.ts";

/** [must, aim, llama.cpp on an H200] of gpt-oss-20b in tokens/s, by depth, by length of the prompt, by batch. */
const decode = { 0: [600, 1000, 352], 4096: [570, 950, 329], 16384: [540, 900, 305] } as const;
const prompts = {
  128: [0, 0, 3678],
  512: [16_000, 30_000, 10_310],
  2048: [24_000, 40_000, 12_195],
  8192: [28_000, 40_000, 14_007],
} as const;
const batches = {
  2: [0, 0, 502],
  4: [0, 0, 708],
  8: [2000, 2600, 920],
  16: [0, 0, 1002],
  32: [5000, 7200, 1556],
  64: [8000, 14_000, 2370],
} as const;
const mostFirstTokenSeconds = 4;
const mostBytes = 17 * 2 ** 30;

type Figures = readonly [must: number, aim: number, llama: number];
type Result = {
  readonly n_prompt: number;
  readonly n_depth: number;
  readonly n_batch: number;
  readonly tokens_per_second: number;
  readonly roofline_tokens_per_second?: number;
  readonly distinct_experts?: number;
};
type Report = { readonly results: readonly Result[] };

export async function bench(check: Check): Promise<void> {
  const { backend, largeModel, report } = check;
  const files = openModelFiles(largeModel);
  const setting = (name: string) => Number(files.setting(`${files.architecture}.${name}`));
  const context = setting("context_length");
  const known =
    files.architecture === "gpt-oss" && setting("block_count") === 24 && setting("expert_count") === 32;
  const measure = async (...words: string[]) => {
    const command = psionic("bench", "-m", largeModel, "--backend", backend, "--json", ...words);
    return (await json<Report>(command, 150)).results;
  };
  const within = (lengths: object, more: number) =>
    Object.keys(lengths)
      .filter((n) => Number(n) + more <= context)
      .join(",");

  await firstToken(check);
  for (const r of await measure("-p", "0", "-n", "128", "-d", within(decode, 128))) {
    const figures = known ? decode[r.n_depth as keyof typeof decode] : undefined;
    report(figure(`decode, batch 1, depth ${r.n_depth}`, r, figures));
  }
  for (const r of await measure("-p", within(prompts, 0), "-n", "0")) {
    const figures = known ? prompts[r.n_prompt as keyof typeof prompts] : undefined;
    report(figure(`prompt of ${r.n_prompt}`, r, figures));
  }
  for (const r of await measure("-p", "0", "-n", "64", "-b", Object.keys(batches).join(","))) {
    const figures = known ? batches[r.n_batch as keyof typeof batches] : undefined;
    report(figure(`decode, batch ${r.n_batch}, all together`, r, figures));
  }
  if (known) await fullContext(check);
}

function figure(what: string, result: Result, figures: Figures | undefined): Row {
  const { tokens_per_second: rate, roofline_tokens_per_second: roofline, distinct_experts: experts } = result;
  const limits = [
    ...(roofline === undefined ? [] : [`roofline ${roofline.toFixed(0)}`]),
    ...(experts === undefined || result.n_prompt > 0 ? [] : [`${experts.toFixed(1)} experts a layer`]),
  ];
  const got = [`${rate.toFixed(0)} tok/s`, ...limits].join(", ");
  if (!figures) return { what, required: "(no figure for this model)", got };
  const [must, aim, llama] = figures;
  const beside = `aim ${aim || "-"}, llama.cpp ${llama}`;
  if (must === 0) return { what, required: `(${beside})`, got };
  const row = atLeast(what, rate, must);
  return { ...row, required: `${row.required} (${beside})`, got };
}

/** From the start of the process; the file was read a moment ago and is in the page cache. */
async function firstToken({ backend, largeModel, report }: Check): Promise<void> {
  const seconds: number[] = [];
  for (let i = 0; i < 3; i++) {
    const command = psionic(
      "run",
      "-m",
      largeModel,
      "-p",
      "Hello",
      "-n",
      "1",
      "-c",
      "4096",
      "--backend",
      backend,
    );
    const { code, err, firstByteSeconds, seconds: all } = await ran(command, { limit: 90 });
    if (code !== 0) throw new Error(`run exited with ${code}: ${lastLines(err)}`);
    seconds.push(Math.min(firstByteSeconds, all));
  }
  report(atMost("process start to first token, s", median(seconds), mostFirstTokenSeconds));
}

async function fullContext({ backend, largeModel, report }: Check): Promise<void> {
  const before = backend === "cuda" ? await usedMemory(backend, 0) : 0;
  const server = await served(["-m", largeModel, "--backend", backend, "-c", "131072", "-np", "1"], 120);
  const bytes = (await usedMemory(backend, server.pid)) - before;
  await server.stop();
  const what = "memory of the device with -c 131072 at one slot";
  report({ what, required: `<= ${gib(mostBytes)}`, got: gib(bytes), ok: bytes > 0 && bytes <= mostBytes });
}
