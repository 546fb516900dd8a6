/**
 * Resident memory of a process that runs the engine over the default model. Memory of other tests must not count, so the
 * tests start this file: `bun resident.ts fill`, `requests COUNT`, or `serve COUNT PROGRAM`. Output: JSON on stdout.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { EngineOptions, GenerateRequest, MemoryPlan } from "../../protocol.ts";
import { type EngineClient, startEngine } from "../index.ts";
import { Random } from "../random.ts";

const modelPath = join(import.meta.dir, "../../../../fixtures/docs-oss-13m-mxfp4.gguf");

/** Bytes. */
export type Filled = {
  readonly plan: MemoryPlan;
  /** Of the runtime with the engine's code, before anything was loaded. */
  readonly runtime: number;
  /** After every page of the caches was written and the largest steps were run. */
  readonly filled: number;
};

/** Bytes after a tenth of the requests and after all of them. */
export type Soaked = { readonly early: number; readonly late: number };

/** Bytes of a server's process: before the first request, and after its contexts were filled and COUNT short requests. */
export type Served = { readonly ready: number; readonly busy: number };

const fillOptions: EngineOptions = {
  ...{ modelPath, backend: "cpu", cacheType: "f32" },
  ...{ slots: 32, contextLength: 1024 },
};

/** Runs as many different prompts as the caches hold. */
export async function fillCaches(): Promise<Filled> {
  const runtime = residentBytes();
  const engine = await startEngine(fillOptions);
  const { slots, contextLength } = engine.info;
  const prompts = Array.from({ length: slots }, (_, i) => prompt(i, contextLength - 8));
  await Promise.all(prompts.map((tokens) => run(engine, tokens, 8)));
  await Bun.sleep(200);
  Bun.gc(true);
  const filled = residentBytes();
  const { memory: plan } = engine.info;
  await engine.close();
  return { plan, runtime, filled };
}

/** Runs `count` requests, eight at a time, greedy and sampled, of which some share prompts and some are left early. */
export async function soakRequests(count: number): Promise<Soaked> {
  const engine = await startEngine({ modelPath, backend: "cpu", slots: 8, contextLength: 512 });
  let early = 0;
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < count) {
      const i = next++;
      const sampling = i % 3 === 0 ? { temperature: 1, topK: 0, topP: 0.9, seed: i } : {};
      await run(engine, prompt(i % 5 === 0 ? i % 100 : i, 20 + (i % 40)), i % 7 === 0 ? 100 : 4, {
        ...{ sampling, choices: 1 + (i % 2), tenant: `t${i % 11}` },
      });
      if (i === Math.floor(count / 10)) early = residentBytes();
    }
  };
  await Promise.all(Array.from({ length: 8 }, lane));
  await Bun.sleep(200);
  Bun.gc(true);
  const late = residentBytes();
  await engine.close();
  return { early, late };
}

/** `PROGRAM serve` with its defaults: every slot's context filled once, then short requests, twenty at a time. */
export async function serveRequests(count: number, program: string): Promise<Served> {
  const child = Bun.spawn([program, "serve", "--port", "0", "-m", modelPath], {
    ...({ stdin: "ignore", stdout: "pipe", stderr: "ignore" } as const),
  });
  try {
    let line = "";
    for await (const bytes of child.stdout) {
      line += new TextDecoder().decode(bytes);
      if (line.includes("\n")) break;
    }
    const url = /http:\/\/\S+/.exec(line)?.[0];
    if (!url) throw new Error(`expected a ready line, got ${line}`);
    const ready = residentBytes(child.pid);
    await Promise.all(Array.from({ length: 8 }, (_, i) => complete(url, prompt(i, 4087))));
    for (let at = 0; at < count; at += 20) {
      await Promise.all(Array.from({ length: 20 }, (_, i) => complete(url, prompt(at + i, 20))));
    }
    return { ready, busy: residentBytes(child.pid) };
  } finally {
    child.kill("SIGTERM");
    await child.exited;
  }
}

async function complete(url: string, tokens: readonly number[]): Promise<void> {
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: tokens, max_tokens: 8, stream: true }),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(text);
}

function prompt(seed: number, length: number): number[] {
  const random = new Random(seed, 0);
  return Array.from({ length }, () => Math.floor(random.next() * 6000));
}

/** Leaves after four tokens of an answer that would be long. */
async function run(
  engine: EngineClient,
  tokens: readonly number[],
  maxTokens: number,
  more: Partial<GenerateRequest> = {},
): Promise<void> {
  const request = { prompt: tokens, sampling: {}, stopTokens: [], choices: 1, maxTokens, ...more };
  let seen = 0;
  for await (const event of engine.generate(request)) {
    if (event.type === "token" && ++seen === 4 && maxTokens > 16) break;
  }
}

function residentBytes(process: number | "self" = "self"): number {
  const line = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${process}/status`, "utf8"));
  return Number(line?.[1]) * 1024;
}

if (import.meta.main) {
  const [what, count, program] = process.argv.slice(2);
  const measured =
    what === "fill"
      ? await fillCaches()
      : what === "serve"
        ? await serveRequests(Number(count), program!)
        : await soakRequests(Number(count));
  console.log(JSON.stringify(measured));
}
