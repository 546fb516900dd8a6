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
  ran,
  served,
  usedMemory,
} from "./check.ts";
import { distinctExperts } from "./experts.ts";

/** [must, aim, llama.cpp on an H200] in tokens/s, by depth, by length of the prompt, by batch. */
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
};
type Report = {
  readonly results: readonly Result[];
  readonly roofline?: { readonly readGbPerSecond: number };
};

export async function bench(check: Check): Promise<void> {
  const { backend, largeModel, report } = check;
  const measure = (...words: string[]) =>
    json<Report>(psionic("bench", "-m", largeModel, "--backend", backend, "--json", ...words), 150);

  await firstToken(check);
  const bytes = modelBytes(largeModel);
  const within = (lengths: object, more: number) =>
    Object.keys(lengths).filter((n) => Number(n) + more < bytes.context);
  const single = await measure("-p", "0", "-n", "128", "-d", within(decode, 128).join(","));
  const bandwidth = (single.roofline?.readGbPerSecond ?? Number.NaN) * 1e9;
  const read = (experts: number) => bytes.dense + experts * bytes.expert;
  const used = bytes.used * bytes.layers;
  report({
    what: "roofline at batch 1, depth 0",
    required: "-",
    got: `${(bandwidth / read(used)).toFixed(0)} tok/s: ${(read(used) / 1e9).toFixed(2)} GB a token, ${(bandwidth / 1e9).toFixed(0)} GB/s`,
  });
  for (const r of single.results) {
    report(figure(`decode, batch 1, depth ${r.n_depth}`, r, decode[r.n_depth as keyof typeof decode]));
  }

  const long = await measure("-p", within(prompts, 0).join(","), "-n", "0");
  for (const r of long.results) {
    report(figure(`prompt of ${r.n_prompt}`, r, prompts[r.n_prompt as keyof typeof prompts]));
  }

  const sizes = Object.keys(batches).map(Number);
  const many = await measure("-p", "0", "-n", "64", "-b", sizes.join(","));
  const distinct = distinctExperts(backend, largeModel, sizes);
  for (const r of many.results) {
    const experts = distinct.get(r.n_batch)!;
    const ceiling = (r.n_batch * bandwidth) / read(experts * bytes.layers);
    const row = figure(
      `decode, batch ${r.n_batch}, all together`,
      r,
      batches[r.n_batch as keyof typeof batches],
    );
    const share = `${experts.toFixed(1)} experts a layer, roofline ${ceiling.toFixed(0)}`;
    report({ ...row, got: `${row.got}; ${share}` });
  }
  await fullContext(check);
}

function figure(what: string, { tokens_per_second: rate }: Result, [must, aim, llama]: Figures) {
  const beside = `aim ${aim || "-"}, llama.cpp ${llama}`;
  if (must === 0) return { what, required: `(${beside})`, got: `${rate.toFixed(0)} tok/s` };
  const row = atLeast(what, rate, must);
  return { ...row, required: `${row.required} (${beside})`, got: `${row.got} tok/s` };
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

/** What a step reads: bytes of everything but experts (of embeddings only rows), bytes of one expert; and counts. */
function modelBytes(path: string) {
  const files = openModelFiles(path);
  let dense = 0;
  let experts = 0;
  for (const [name, { bytes }] of files.tensors) {
    if (/_exps\.(weight|bias)$/.test(name)) experts += bytes;
    else if (name !== "token_embd.weight") dense += bytes;
  }
  const count = (key: string) => {
    if (files.kind !== "gguf") throw new Error("expected a GGUF file");
    return Number(files.metadata.get(`${files.architecture}.${key}`));
  };
  const layers = count("block_count");
  const expert = experts / layers / count("expert_count");
  return { dense, expert, layers, used: count("expert_used_count"), context: count("context_length") };
}
