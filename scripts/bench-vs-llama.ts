/**
 * psionic against llama.cpp on this machine, alternating in one run: prompts of 512 tokens, generation at depths 0 and
 * 4096, and the time from the start of loading to the first
 * token after a prompt of one. llama.cpp comes through node-llama-cpp's prebuilt binaries, which
 * npm installs into .cache/llama-peer at the first run; the models are random weights of real shapes in .cache/bench.
 * Usage: bun scripts/bench-vs-llama.ts [--model FILE]... [--threads 2] [--rounds 2] [--generate 32] [--depths 0,4096]
 *        Needs dist/psionic (bun run build) and Node.js.
 * Output: a table per model on stdout and everything as JSON in .cache/bench/vs-llama.json
 */
import { existsSync, mkdirSync } from "node:fs";
import { loadavg } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { table } from "../src/terminal/table.ts";
import { installPeer, peerFolder, peerVersion } from "./llama-install.ts";

const root = join(import.meta.dir, "..");
const benchFolder = join(root, ".cache", "bench");
const program = join(root, "dist", "psionic");

const { values } = parseArgs({
  options: {
    model: { type: "string", multiple: true },
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "2" },
    prompt: { type: "string", default: "512" },
    generate: { type: "string", default: "32" },
    depths: { type: "string", default: "0,4096" },
  },
});
const threads = Number(values.threads);
const rounds = Number(values.rounds);
const prompt = Number(values.prompt);
const generate = Number(values.generate);
const depths = values.depths.split(",").map(Number);

/** One side's measurements: seconds, except the first token. */
type Times = { firstTokenMs: number[]; prompt: number[]; generation: Record<string, number[]> };
type BenchResult = {
  readonly n_prompt: number;
  readonly n_depth: number;
  readonly samples_seconds: readonly number[];
  readonly share_of_read_bandwidth: number;
  readonly share_of_int8_peak: number;
};
type BenchReport = {
  readonly firstTokenMs: number;
  readonly roofline: { readonly readGbPerSecond: number; readonly int8GopPerSecond: number };
  readonly results: readonly BenchResult[];
};

async function output(command: readonly string[], cwd = root): Promise<string> {
  const child = Bun.spawn([...command], { cwd, stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0)
    throw new Error(`[bench-vs-llama] ${command.join(" ")}\nexited with ${code}:\n${err}${out}`);
  return out;
}

async function models(): Promise<string[]> {
  if (values.model) return values.model;
  const wanted = [
    ["llama-1.2b", "llama-1.2b-q8_0.gguf"],
    ["gpt-oss-4l", "gpt-oss-4l-mxfp4.gguf"],
  ] as const;
  mkdirSync(benchFolder, { recursive: true });
  const make = join(root, "scripts", "make-random-gguf.ts");
  for (const [shape, name] of wanted) {
    const path = join(benchFolder, name);
    if (!existsSync(path)) await output([process.execPath, make, "--shape", shape, "--out", path]);
  }
  return wanted.map(([, name]) => join(benchFolder, name));
}

async function psionic(model: string, into: Times): Promise<Omit<BenchReport, "firstTokenMs">> {
  const common = [program, "bench", "-m", model, "-t", String(threads), "-r", "2", "--json"];
  const prompts = JSON.parse(await output([...common, "-p", String(prompt), "-n", "0"])) as BenchReport;
  into.firstTokenMs.push(prompts.firstTokenMs);
  const generation = JSON.parse(
    await output([...common, "-p", "0", "-n", String(generate), "-d", depths.join(",")]),
  ) as BenchReport;
  const results = [...prompts.results, ...generation.results];
  for (const { n_prompt, n_depth, samples_seconds } of results) {
    if (n_prompt > 0) into.prompt.push(...samples_seconds);
    else add(into.generation, String(n_depth), samples_seconds);
  }
  return { roofline: generation.roofline, results };
}

async function llama(model: string, into: Times): Promise<void> {
  const ask = JSON.stringify({ threads, prompt, generate, depths, repeats: 2 });
  const script = join(root, "scripts", "llama-bench.mjs");
  const lines = (await output(["node", script, peerFolder, model, ask])).trim().split("\n");
  const times = JSON.parse(lines.at(-1)!) as Omit<Times, "firstTokenMs"> & { firstTokenMs: number };
  into.firstTokenMs.push(times.firstTokenMs);
  into.prompt.push(...times.prompt);
  for (const [depth, seconds] of Object.entries(times.generation)) add(into.generation, depth, seconds);
}

function add(into: Record<string, number[]>, key: string, seconds: readonly number[]): void {
  into[key] = [...(into[key] ?? []), ...seconds];
}

function median(numbers: readonly number[]): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN;
}

type Row = {
  readonly test: string;
  readonly unit: "tokens/s" | "ms";
  readonly psionic: number;
  readonly llama: number;
  /** Above 1: psionic is faster. */
  readonly ratio: number;
  readonly shareOfRead?: number;
  readonly shareOfInt8?: number;
};

/** Medians over the rounds; the shares are those that `psionic bench` measured beside each repeat. */
function rowsOf(ours: Times, theirs: Times, reports: readonly Omit<BenchReport, "firstTokenMs">[]): Row[] {
  const rate = (tokens: number, seconds: readonly number[]) => tokens / median(seconds);
  const row = (test: string, a: number, b: number, shares: Partial<Row> = {}): Row => ({
    ...{ test, unit: "tokens/s", psionic: a, llama: b, ratio: a / b },
    ...shares,
  });
  const rows: Row[] = [];
  for (const [i, { n_prompt, n_depth }] of reports[0]!.results.entries()) {
    const over = (share: (r: BenchResult) => number) =>
      median(reports.map(({ results }) => share(results[i]!)));
    if (n_prompt > 0) {
      const shareOfInt8 = over((r) => r.share_of_int8_peak);
      rows.push(row(`pp${prompt}`, rate(prompt, ours.prompt), rate(prompt, theirs.prompt), { shareOfInt8 }));
      continue;
    }
    const mine = ours.generation[n_depth]!;
    const shareOfRead = over((r) => r.share_of_read_bandwidth);
    const name = `tg${generate}${n_depth > 0 ? ` @ d${n_depth}` : ""}`;
    rows.push(row(name, rate(generate, mine), rate(generate, theirs.generation[n_depth]!), { shareOfRead }));
  }
  const [a, b] = [median(ours.firstTokenMs), median(theirs.firstTokenMs)];
  rows.push({ test: "first token", unit: "ms", psionic: a, llama: b, ratio: b / a });
  return rows;
}

function print(model: string, rows: readonly Row[], roofline: BenchReport["roofline"]): void {
  const percent = (share: number | undefined) => (share === undefined ? "" : `${(100 * share).toFixed(0)} %`);
  const cells = rows.map((r) => [
    `${r.test}, ${r.unit}`,
    r.psionic.toFixed(1),
    r.llama.toFixed(1),
    `${r.ratio.toFixed(2)}x`,
    percent(r.shareOfRead),
    percent(r.shareOfInt8),
  ]);
  const { readGbPerSecond, int8GopPerSecond } = roofline;
  console.log(`\n${basename(model)}, ${threads} threads, load average ${loadavg()[0]!.toFixed(1)}`);
  console.log(`measured: read ${readGbPerSecond.toFixed(1)} GB/s, int8 ${int8GopPerSecond.toFixed(0)} Gop/s`);
  console.log(
    table([["test", "psionic", "llama.cpp", "ratio", "of read", "of int8"], ...cells], [1, 2, 3, 4, 5]),
  );
}

async function compare(model: string) {
  const ours: Times = { firstTokenMs: [], prompt: [], generation: {} };
  const theirs: Times = { firstTokenMs: [], prompt: [], generation: {} };
  const reports: Omit<BenchReport, "firstTokenMs">[] = [];
  // The page cache is warm for both sides.
  await output(["sh", "-c", 'cat "$0" > /dev/null', model]);
  for (let round = 1; round <= rounds; round++) {
    console.error(`${basename(model)}: round ${round} of ${rounds}`);
    reports.push(await psionic(model, ours));
    await llama(model, theirs);
  }
  const roofline = {
    readGbPerSecond: median(reports.map((r) => r.roofline.readGbPerSecond)),
    int8GopPerSecond: median(reports.map((r) => r.roofline.int8GopPerSecond)),
  };
  const rows = rowsOf(ours, theirs, reports);
  print(model, rows, roofline);
  return { model: basename(model), threads, roofline, rows, samples: { psionic: ours, llama: theirs } };
}

if (!existsSync(program))
  throw new Error(`[bench-vs-llama] expected ${program}, got no file. Run: bun run build`);
await installPeer();
// llama.cpp's threads wait for each other by spinning: beside other work they lose whole time slices, and its numbers
// are then those of the scheduler.
if (loadavg()[0]! > 0.5) {
  console.error(
    `load average ${loadavg()[0]!.toFixed(1)}: a fair comparison needs a machine that does nothing else`,
  );
}
const results = [];
for (const model of await models()) results.push(await compare(model));
await Bun.write(
  join(benchFolder, "vs-llama.json"),
  `${JSON.stringify({ peer: peerVersion, results }, null, 1)}\n`,
);
