/**
 * The second turn of a long chat: time to the first token with the first turn in the cache, after a restart with the
 * cache in files, and from nothing. Against what the new tokens alone cost, which `psionic bench` says.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { type Check, lastLines, psionic, ran, type Served, served } from "./check.ts";

const first = Number(process.env.GPU_CHECK_CONTEXT ?? 8192);
const added = 256;
const repeats = 5;
const pauseMs = 1000;

export async function turns({ backend, largeModel, folder, report }: Check): Promise<void> {
  const store = join(folder, "prefixes");
  rmSync(store, { recursive: true, force: true });
  const words = ["-m", largeModel, "--backend", backend, "-np", "2", "-c", String(2 * first)];
  const server = await served([...words, "--prefix-disk", "40GiB", "--prefix-disk-dir", store], 120);
  await digestKnown(server); // what is kept in files goes by it, and a large file takes seconds to read
  const said = prompt(1, first);
  await firstToken(server, prompt(2, added), 1); // what a process does the first time is not what is measured
  const cold = await firstToken(server, said, 16);
  const warm = await median(async (i) => {
    await Bun.sleep(pauseMs); // somebody reads the answer, while its pages are written to files
    return firstToken(server, [...said, ...prompt(100 + i, added)], 1);
  });
  await Bun.sleep(3000); // files are written behind the answers
  await server.stop();

  const again = await served([...words, "--prefix-disk", "40GiB", "--prefix-disk-dir", store], 120);
  await firstToken(again, prompt(2, added), 1);
  const restarted = await firstToken(again, [...said, ...prompt(200, added)], 1);
  await again.stop();

  const alone = await newTokensAlone(backend, largeModel);
  const ms = ({ ms, cached }: Timed) => `${ms.toFixed(0)} ms, ${cached} tokens from the cache`;
  report({ what: `first token of ${first} tokens, cold`, required: "(for comparison)", got: ms(cold) });
  report({
    what: `first token of the second turn, ${added} new tokens`,
    required: `<= 110 % of the new tokens alone, ${alone.toFixed(0)} ms`,
    got: ms(warm),
    ok: warm.cached > 0 && warm.ms <= 1.1 * alone,
  });
  report({
    what: "the same after a restart, from files",
    required: "a fifth of reading the prompt again",
    got: ms(restarted),
    ok: restarted.cached > 0 && restarted.ms * 5 <= cold.ms,
  });
  rmSync(store, { recursive: true, force: true });
}

async function digestKnown({ url }: Served): Promise<void> {
  for (let i = 0; i < 600; i++) {
    const { data } = (await (await fetch(`${url}/v1/models`)).json()) as {
      data: { meta?: { digest?: string | null } }[];
    };
    if (data[0]?.meta?.digest?.startsWith("sha256:")) return;
    await Bun.sleep(100);
  }
  throw new Error("the model's digest took more than a minute");
}

/** Milliseconds of a prompt of the new tokens behind the first turn, by the bench. */
async function newTokensAlone(backend: string, model: string): Promise<number> {
  const words = [
    "bench",
    "-m",
    model,
    "--backend",
    backend,
    "-p",
    String(added),
    "-n",
    "0",
    "-d",
    String(first),
  ];
  const { code, out, err } = await ran(psionic(...words, "--json"), { limit: 120 });
  if (code !== 0) throw new Error(`bench ended with exit ${code}: ${lastLines(err, 2)}`);
  const { results } = JSON.parse(out) as { results: { tokens_per_second: number }[] };
  return (added / results[0]!.tokens_per_second) * 1000;
}

type Timed = { readonly ms: number; readonly cached: number };

async function median(measure: (i: number) => Promise<Timed>): Promise<Timed> {
  const all: Timed[] = [];
  for (let i = 0; i < repeats; i++) all.push(await measure(i));
  return all.sort((a, b) => a.ms - b.ms)[repeats >> 1]!;
}

/** Ids that random models have, the same for a seed. */
function prompt(seed: number, count: number): number[] {
  let state = seed * 7919 + 17;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 100 + ((state >>> 8) % 200);
  });
}

async function firstToken({ url }: Served, ids: readonly number[], tokens: number): Promise<Timed> {
  const start = performance.now();
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      ...{ prompt: ids, max_tokens: tokens, temperature: 0, stream: true },
      stream_options: { include_usage: true },
    }),
  });
  let text = "";
  let ms = Number.NaN;
  const decoder = new TextDecoder();
  for await (const piece of response.body!) {
    text += decoder.decode(piece, { stream: true });
    if (Number.isNaN(ms) && text.includes("data:")) ms = performance.now() - start;
  }
  if (!response.ok || text.includes('"error"'))
    throw new Error(`status ${response.status}: ${text.slice(0, 200)}`);
  const cached = /"cached_tokens":(\d+)/.exec(text)?.[1];
  return { ms, cached: Number(cached ?? 0) };
}
