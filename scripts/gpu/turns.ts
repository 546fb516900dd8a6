/**
 * The second turn of a long chat: time to the first token with the first turn in the cache, after a restart with the
 * cache in files, and from nothing. Against what the new tokens alone cost, which `psionic bench` says, and after a
 * restart that with what the disk takes for the files that are read.
 */

import { dlopen } from "bun:ffi";
import { closeSync, fsyncSync, openSync, readdirSync, readSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Check, lastLines, psionic, ran, type Served, served } from "./check.ts";
import { SseClient } from "./sse_client.ts";

const first = Number(process.env.GPU_CHECK_CONTEXT ?? 8192);
const added = 256;
const repeats = 15;
const restarts = 3;
const pauseMs = 1000;
const warmUps = 100;

export async function turns({ backend, largeModel, folder, report }: Check): Promise<void> {
  const store = join(folder, "prefixes");
  rmSync(store, { recursive: true, force: true });
  const words = ["-m", largeModel, "--backend", backend, "-np", "2", "-c", String(2 * first)];
  const start = () => served([...words, "--prefix-disk", "40GiB", "--prefix-disk-dir", store], 120);
  const server = await start();
  await digestKnown(server); // what is kept in files goes by it, and a large file takes seconds to read
  const said = prompt(1, first);
  const client = await SseClient.open(server.url);
  await warmUp(client);
  const cold = await firstToken(client, said, 16);
  const warm = await median(repeats, async (i) => {
    await Bun.sleep(pauseMs); // somebody reads the answer, while its pages are written to files
    return firstToken(client, [...said, ...prompt(100 + i, added)], 1);
  });
  client.close();
  await Bun.sleep(3000); // files are written behind the answers
  await server.stop();

  let read = 0;
  const restarted = async (i: number, evicts: boolean) => {
    if (evicts) evict(store);
    const again = await start();
    const client = await SseClient.open(again.url);
    await warmUp(client);
    const before = await readBytes(again);
    const timed = await firstToken(client, [...said, ...prompt(200 + i, added)], 1);
    client.close();
    read = (await readBytes(again)) - before;
    await again.stop();
    return timed;
  };
  const inMemory = await median(restarts, (i) => restarted(i, false));
  const fromDisk = await median(restarts, (i) => restarted(restarts + i, true));
  const rate = diskRate(store);

  const alone = await newTokensAlone(backend, largeModel);
  const ms = ({ ms, cached }: Timed) => `${ms.toFixed(1)} ms, ${cached} tokens from the cache`;
  report({ what: `first token of ${first} tokens, cold`, required: "(for comparison)", got: ms(cold) });
  report({
    what: `first token of the second turn, ${added} new tokens`,
    required: `<= 110 % of the new tokens alone, ${alone.toFixed(1)} ms`,
    got: ms(warm),
    ok: warm.cached > 0 && warm.ms <= 1.1 * alone,
  });
  report({
    what: "the same after a restart, files in the page cache",
    required: "a fifth of reading the prompt again",
    got: ms(inMemory),
    ok: inMemory.cached > 0 && inMemory.ms * 5 <= cold.ms,
  });
  const allowed = 1.1 * alone + (1000 * read) / rate;
  report({
    what: "the same after a restart, files on the disk alone",
    required: `<= ${allowed.toFixed(0)} ms: that and ${(read / 1e6).toFixed(0)} MB at ${(rate / 1e9).toFixed(1)} GB/s`,
    got: ms(fromDisk),
    ok: fromDisk.cached > 0 && fromDisk.ms <= allowed,
  });
  rmSync(store, { recursive: true, force: true });
}

/** Bytes that a server has read of the prefix cache's files. */
async function readBytes({ url }: Served): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(/^psionic_prefix_disk_read_bytes_total\S* (\S+)/m.exec(text)?.[1] ?? Number.NaN);
}

function filesOf(store: string): string[] {
  return readdirSync(store, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

const dontNeed = 4;

/** Leaves the files to the disk alone. */
function evict(store: string): void {
  const { symbols, close } = dlopen("libc.so.6", {
    posix_fadvise: { args: ["i32", "i64", "i64", "i32"], returns: "i32" },
  });
  for (const path of filesOf(store)) {
    const file = openSync(path, "r");
    fsyncSync(file);
    const status = symbols.posix_fadvise(file, 0, 0, dontNeed);
    closeSync(file);
    if (status !== 0)
      throw new Error(`[turns] expected ${path} to leave the page cache, got error ${status}`);
  }
  close();
}

/** Bytes a second of files that only the disk has, one after the other in reads of a megabyte: the better of two. */
function diskRate(store: string): number {
  const rates = [0, 1].map(() => {
    evict(store);
    const place = new Uint8Array(2 ** 20);
    const start = performance.now();
    let bytes = 0;
    for (const path of filesOf(store)) {
      const file = openSync(path, "r");
      for (let n = readSync(file, place); n > 0; n = readSync(file, place)) bytes += n;
      closeSync(file);
    }
    return (bytes / (performance.now() - start)) * 1000;
  });
  return Math.max(...rates);
}

/**
 * What a process does the first times is not what is measured. Other prompts, a hundred of them: by then most of the server's
 * code is compiled, as it is in one that has served for a minute.
 */
async function warmUp(client: SseClient): Promise<void> {
  for (let i = 0; i < warmUps; i++) await firstToken(client, prompt(1000 + i, added), 1);
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

async function median(count: number, measure: (i: number) => Promise<Timed>): Promise<Timed> {
  const all: Timed[] = [];
  for (let i = 0; i < count; i++) all.push(await measure(i));
  return all.sort((a, b) => a.ms - b.ms)[count >> 1]!;
}

/** Ids that random models have, the same for a seed. */
function prompt(seed: number, count: number): number[] {
  let state = seed * 7919 + 17;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 100 + ((state >>> 8) % 200);
  });
}

async function firstToken(client: SseClient, ids: readonly number[], tokens: number): Promise<Timed> {
  const body = JSON.stringify({
    ...{ prompt: ids, max_tokens: tokens, temperature: 0, stream: true },
    stream_options: { include_usage: true },
  });
  const { firstEventMs, status, text } = await client.post("/v1/completions", body);
  if (status !== 200 || text.includes('"error"')) throw new Error(`status ${status}: ${text.slice(0, 200)}`);
  const cached = /"cached_tokens":(\d+)/.exec(text)?.[1];
  return { ms: firstEventMs, cached: Number(cached ?? 0) };
}
