/**
 * Damaged inputs of every kind that comes from strangers: GGUF and safetensors headers, tokenizer tables, answers of
 * models, grammars, request bodies, invocation manifests, contributions. Anything but a typed error ends the run.
 * Usage: bun scripts/fuzz.ts [--seconds 120 | --count N] [--seed N]   Time is shared out evenly, cases by their cost: N
 * answers over the three families, and for the other kinds a part of N beside them.
 * Output: one line per kind on stdout, progress on stderr; exits 1 at the first thing that broke, with the seed and the case.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openModelFiles } from "../src/models/files/source.ts";
import { openTokenizer } from "../src/models/open_tokenizer.ts";
import { Progress } from "../src/terminal/progress.ts";

/** When one kind has had enough. */
export type FuzzLimit = { readonly count: number } | { readonly durationMs: number };

/** Cases that were run and what came of them, by name. */
type Counts = { readonly cases: number } & Readonly<Record<string, number>>;

type Kind = {
  readonly name: string;
  /** Part of a number of cases; those that take longer have fewer. */
  readonly part: number;
  readonly run: (seed: number, limit: FuzzLimit) => Promise<Counts>;
};

const kinds: readonly Kind[] = [
  { name: "GGUF headers", part: 0.3, run: (seed, limit) => fileHeaders("fuzzGguf", seed, limit) },
  {
    name: "safetensors headers",
    part: 0.3,
    run: (seed, limit) => fileHeaders("fuzzSafetensors", seed, limit),
  },
  { name: "tokenizer tables", part: 0.02, run: tokenizerTables },
  { name: "Harmony answers", part: 0.34, run: harmonyAnswers },
  { name: "Qwen 3.5 answers", part: 0.33, run: (seed, limit) => callAnswers("qwen35", seed, limit) },
  { name: "Gemma 4 answers", part: 0.33, run: (seed, limit) => callAnswers("gemma4", seed, limit) },
  { name: "schemas, patterns and grammars", part: 0.02, run: grammars },
  { name: "request bodies", part: 0.08, run: requestBodies },
  { name: "invocation manifests", part: 1, run: invocationManifests },
  { name: "contributions", part: 0.02, run: contributions },
];

const pastCountsName = "past magic and counts";

async function fileHeaders(kind: "fuzzGguf" | "fuzzSafetensors", seed: number, limit: FuzzLimit) {
  const fuzz = (await import("../src/models/files/fuzz.ts"))[kind];
  const { cases, accepted, refused, pastCounts } = fuzz(seed, limit);
  return { cases, accepted, "ended in typed errors": refused, [pastCountsName]: pastCounts };
}

async function tokenizerTables(seed: number, limit: FuzzLimit) {
  const { fuzzTokenizer } = await import("../src/models/tokenizer/fuzz.ts");
  const { cases, accepted, refused } = fuzzTokenizer(seed, limit);
  return { cases, "accepted and used": accepted, "ended in typed errors": refused };
}

async function harmonyAnswers(seed: number, limit: FuzzLimit) {
  const { fuzzHarmony } = await import("../src/models/chat/index.ts");
  const model = join(import.meta.dir, "..", "fixtures", "docs-oss-13m-mxfp4.gguf");
  const { cases, tokens, unparsed } = fuzzHarmony(openTokenizer(openModelFiles(model)), seed, limit);
  return { cases, tokens, "fitted no rule": unparsed };
}

async function callAnswers(family: "qwen35" | "gemma4", seed: number, limit: FuzzLimit) {
  const { fuzzGemma4, fuzzQwen35 } = await import("../src/models/chat/index.ts");
  const { gemmaTokenizer, qwenTokenizer } = await import("../src/models/chat/testing/vocabulary.ts");
  const run = family === "qwen35" ? fuzzQwen35 : fuzzGemma4;
  const { cases, tokens, unparsed } = run(
    family === "qwen35" ? qwenTokenizer() : gemmaTokenizer(),
    seed,
    limit,
  );
  return { cases, tokens, "fitted no rule": unparsed };
}

async function grammars(seed: number, limit: FuzzLimit) {
  const { fuzzGrammars } = await import("../src/serve/grammar/fuzz.ts");
  const model = join(import.meta.dir, "..", "fixtures", "docs-oss-13m-mxfp4.gguf");
  const { cases, followed, refused, tokens } = fuzzGrammars(
    openTokenizer(openModelFiles(model)),
    seed,
    limit,
  );
  return { cases, followed, "ended in typed errors": refused, tokens };
}

async function requestBodies(seed: number, limit: FuzzLimit) {
  const { fuzzBodies } = await import("../src/serve/http/fuzz.ts");
  const { startServer } = await import("../src/serve/http/server.ts");
  const { scriptedModel } = await import("../src/serve/http/testing/scripted.ts");
  const server = await startServer(scriptedModel("<|think|>r<|answer|>hello"), { port: 0 });
  const { requests, statuses } = await fuzzBodies(seed, limit, server.handle);
  await server.stop({ force: true });
  const named = Object.entries(statuses).map(([status, n]) => [`of status ${status}`, n] as const);
  return { cases: requests, ...Object.fromEntries(named) };
}

async function invocationManifests(seed: number, limit: FuzzLimit) {
  const { fuzzManifests } = await import("../src/machine/fuzz.ts");
  const { cases, classes } = fuzzManifests(seed, limit);
  return { cases, ...classes };
}

async function contributions(seed: number, limit: FuzzLimit) {
  const { fuzzContributions } = await import("../src/machine/fuzz_contribution.ts");
  const { cases, classes } = fuzzContributions(seed, limit);
  return { cases, ...classes };
}

/** How long a kind runs before its progress is told. */
const sliceCases = 2000;
const sliceMs = 2000;

/** Runs every kind with its share of the limit, tells progress on stderr and prints a line for each; gives all cases. */
export async function fuzzAll(seed: number, limit: FuzzLimit): Promise<number> {
  let cases = 0;
  for (const kind of kinds) {
    const start = performance.now();
    const counts = await inSlices(kind, seed, limit);
    const { cases: ran, ...rest } = counts;
    const text = Object.entries(rest).map(([name, n]) => `${n} ${name}`);
    if (pastCountsName in rest && rest[pastCountsName]! < ran / 3)
      throw new Error(`expected a third ${pastCountsName}, got ${text.join(", ")} of ${ran}`);
    const seconds = ((performance.now() - start) / 1000).toFixed(0);
    console.log(`- ${ran} mutants, ${kind.name}: ${text.join(", ")} (${seconds} s)`);
    cases += ran;
  }
  return cases;
}

/** Slice by slice, each with a seed of its own: the next case's, so that a failure names a seed that repeats it. */
async function inSlices({ name, part, run }: Kind, seed: number, limit: FuzzLimit): Promise<Counts> {
  const byCount = "count" in limit;
  const total = byCount ? Math.ceil(limit.count * part) : limit.durationMs / kinds.length;
  const progress = new Progress({
    format: (n) => (byCount ? String(Math.ceil(n)) : `${Math.round(n / 1000)} s`),
  });
  const sums: Record<string, number> & { cases: number } = { cases: 0 };
  const start = performance.now();
  const done = () => (byCount ? sums.cases : performance.now() - start);
  while (done() < total) {
    progress.update(name, done(), total);
    const left = Math.ceil(total - done());
    const slice = byCount ? { count: Math.min(left, sliceCases) } : { durationMs: Math.min(left, sliceMs) };
    for (const [key, n] of Object.entries(await run(seed + sums.cases, slice)))
      sums[key] = (sums[key] ?? 0) + n;
  }
  progress.end();
  return sums;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      seconds: { type: "string", default: "120" },
      count: { type: "string" },
      seed: { type: "string", default: "1" },
    },
  });
  await fuzzAll(
    Number(values.seed),
    values.count ? { count: Number(values.count) } : { durationMs: Number(values.seconds) * 1000 },
  );
}
