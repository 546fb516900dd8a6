/**
 * Damaged inputs of every kind that comes from strangers: GGUF and safetensors headers, tokenizer tables, answers of
 * models, request bodies. Anything but a typed error ends the run.
 * Usage: bun scripts/fuzz.ts [--seconds 120 | --count N] [--seed N]          Both are shared out over the kinds.
 * Output: one line per kind on stdout; exits 1 at the first thing that broke, with the seed and the case.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openModelFiles } from "../src/models/files/source.ts";
import { openTokenizer } from "../src/models/open_tokenizer.ts";

/** When one kind has had enough. */
export type FuzzLimit = { readonly count: number } | { readonly durationMs: number };

type Kind = {
  readonly name: string;
  readonly run: (
    seed: number,
    limit: FuzzLimit,
  ) => Promise<{ readonly cases: number; readonly text: string }>;
};

const kinds: readonly Kind[] = [
  { name: "GGUF headers", run: (seed, limit) => fileHeaders("fuzzGguf", seed, limit) },
  { name: "safetensors headers", run: (seed, limit) => fileHeaders("fuzzSafetensors", seed, limit) },
  { name: "tokenizer tables", run: tokenizerTables },
  { name: "Harmony answers", run: harmonyAnswers },
  { name: "request bodies", run: requestBodies },
];

async function fileHeaders(kind: "fuzzGguf" | "fuzzSafetensors", seed: number, limit: FuzzLimit) {
  const fuzz = (await import("../src/models/files/fuzz.ts"))[kind];
  const { cases, accepted, refused, pastCounts } = fuzz(seed, limit);
  const text = `${accepted} accepted, ${refused} ended in typed errors, ${pastCounts} past magic and counts`;
  if (pastCounts < cases / 3) throw new Error(`expected a third past magic and counts, got ${text}`);
  return { cases, text };
}

async function tokenizerTables(seed: number, limit: FuzzLimit) {
  const { fuzzTokenizer } = await import("../src/models/tokenizer/fuzz.ts");
  const { cases, accepted, refused } = fuzzTokenizer(seed, limit);
  return { cases, text: `${accepted} accepted and used, ${refused} ended in typed errors` };
}

async function harmonyAnswers(seed: number, limit: FuzzLimit) {
  const { fuzzHarmony } = await import("../src/models/chat/index.ts");
  const model = join(import.meta.dir, "..", "fixtures", "docs-oss-13m-mxfp4.gguf");
  const { cases, tokens, unparsed } = fuzzHarmony(openTokenizer(openModelFiles(model)), seed, limit);
  return { cases, text: `${tokens} tokens, ${unparsed} fitted no rule` };
}

async function requestBodies(seed: number, limit: FuzzLimit) {
  const { fuzzBodies } = await import("../src/serve/http/fuzz.ts");
  const { startServer } = await import("../src/serve/http/server.ts");
  const { scriptedModel } = await import("../src/serve/http/testing/scripted.ts");
  const server = await startServer(scriptedModel("<|think|>r<|answer|>hello"), { port: 0 });
  const { requests, statuses } = await fuzzBodies(seed, limit, server.handle);
  await server.stop({ force: true });
  const text = Object.entries(statuses).map(([status, n]) => `${n} x ${status}`);
  return { cases: requests, text: text.join(", ") };
}

/** Runs every kind with its share of the limit and prints a line for each. */
export async function fuzzAll(seed: number, limit: FuzzLimit): Promise<void> {
  const share: FuzzLimit =
    "count" in limit
      ? { count: Math.ceil(limit.count / kinds.length) }
      : { durationMs: limit.durationMs / kinds.length };
  for (const { name, run } of kinds) {
    const start = performance.now();
    const { cases, text } = await run(seed, share);
    console.log(
      `- ${cases} mutants, ${name}: ${text} (${((performance.now() - start) / 1000).toFixed(0)} s)`,
    );
  }
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
