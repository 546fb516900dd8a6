/** The engine with the default model on the CPU: what must hold whatever else is running, bit for bit. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { PsionicError } from "../../core/error.ts";
import type { GenerateEvent, GenerateRequest } from "../protocol.ts";
import { type EngineClient, startEngine } from "./index.ts";
import { Random } from "./random.ts";

const modelPath = join(import.meta.dir, "../../../fixtures/docs-oss-13m-mxfp4.gguf");

let engine: EngineClient;

beforeAll(async () => {
  engine = await startEngine({ modelPath, backend: "cpu", slots: 8, contextLength: 2048 });
});

afterAll(async () => {
  await engine.close(true);
});

function words(seed: number, length: number): number[] {
  const random = new Random(seed, 0);
  return Array.from({ length }, () => Math.floor(random.next() * 6000));
}

function request(prompt: readonly number[], more: Partial<GenerateRequest> = {}): GenerateRequest {
  return { prompt, sampling: {}, stopTokens: [], choices: 1, maxTokens: 16, topLogprobs: 3, ...more };
}

async function all(ask: GenerateRequest): Promise<GenerateEvent[]> {
  const out: GenerateEvent[] = [];
  for await (const event of engine.generate(ask)) out.push(event);
  return out;
}

/** Tokens with their log-probabilities: equal only when every logit that counts is equal to the last bit. */
function answer(events: readonly GenerateEvent[]): unknown[] {
  return events.flatMap((e) => (e.type === "token" ? [[e.choice, e.token, e.logprob, e.top]] : []));
}

function tokens(events: readonly GenerateEvent[]): number[] {
  return events.flatMap((e) => (e.type === "token" ? [e.token] : []));
}

function endOf(events: readonly GenerateEvent[]) {
  const end = events.at(-1);
  if (end?.type !== "end") throw new Error(`expected an end event, got ${end?.type}`);
  return end;
}

async function until(condition: () => boolean): Promise<void> {
  const start = performance.now();
  while (!condition()) {
    if (performance.now() - start > 60_000) throw new Error("waited a minute in vain");
    await Bun.sleep(1);
  }
}

describe("the same request gives the same bits", () => {
  test("alone and among eight, cold", async () => {
    const asks = Array.from({ length: 8 }, (_, i) =>
      request(words(i, 20 + 45 * i), { prefixCache: "bypass" }),
    );
    const alone: unknown[][] = [];
    for (const ask of asks) alone.push(answer(await all(ask)));
    const together = await Promise.all(asks.map(all));
    expect(together.map(answer)).toEqual(alone);
    const reversed = await Promise.all(asks.toReversed().map(all));
    expect(reversed.map(answer)).toEqual(alone.toReversed());
  });

  test("with a cold and a warm cache", async () => {
    const prompt = words(100, 700);
    const cold = await all(request(prompt, { prefixCache: "bypass" }));
    await all(request(prompt));
    const warm = await all(request(prompt));
    expect(endOf(warm).cachedTokens).toBe(672);
    expect(answer(warm)).toEqual(answer(cold));
  });

  test("in the second turn of a chat, over pages written while generating", async () => {
    const prompt = words(101, 301);
    const first = await all(request(prompt, { maxTokens: 200 }));
    const second = [...prompt, ...tokens(first), ...words(102, 21)];
    const warm = await all(request(second));
    // 500 positions were computed in the first turn
    expect(endOf(warm).cachedTokens).toBe(480);
    const cold = await all(request(second, { prefixCache: "bypass" }));
    expect(answer(warm)).toEqual(answer(cold));
  });

  test("sampled, with penalties, among others and alone", async () => {
    const sampling = { temperature: 1, topP: 0.95, repeatPenalty: 1.1, dryMultiplier: 0.5, seed: 7 };
    const ask = request(words(103, 64), { sampling, choices: 3, maxTokens: 24 });
    const byChoice = (events: readonly GenerateEvent[], choice: number) =>
      events.flatMap((e) => (e.type === "token" && e.choice === choice ? [e.token] : []));
    const alone = await all(ask);
    const [among] = await Promise.all([all(ask), ...[1, 2, 3, 4].map((i) => all(request(words(i, 99))))]);
    for (const choice of [0, 1, 2]) expect(byChoice(among, choice)).toEqual(byChoice(alone, choice));
    expect(byChoice(alone, 0)).not.toEqual(byChoice(alone, 1));
  });

  test("prompt log-probabilities agree with those of generation", async () => {
    const prompt = words(104, 150);
    const generated = await all(request(prompt, { maxTokens: 30 }));
    const whole = [...prompt, ...tokens(generated)];
    const echo = await all(request(whole, { promptLogprobs: true, maxTokens: 0 }));
    const listed = echo.find((e) => e.type === "promptLogprobs")!.tokens;
    expect(listed.length).toBe(179);
    const generatedLogprobs = generated.flatMap((e) => (e.type === "token" ? [e.logprob] : []));
    expect(listed.slice(149).map((t) => t.logprob)).toEqual(generatedLogprobs as number[]);
  });
});

describe("load", () => {
  test("200 streams complete without a mix-up", async () => {
    const asks = Array.from({ length: 200 }, (_, i) =>
      request(words(i % 10, 10 + (i % 10)), { maxTokens: 6, client: `c${i % 7}` }),
    );
    const answers = (await Promise.all(asks.map(all))).map(answer);
    for (let i = 0; i < 200; i++) expect(answers[i]).toEqual(answers[i % 10]!);
    expect(answers[0]).not.toEqual(answers[1]!);
    expect(engine.stats()).toMatchObject({ active: 0, queued: 0, pagesUsed: 0 });
  });

  test("a client that leaves frees its slot long before its answer would have ended", async () => {
    const made: number[] = [];
    for (let i = 0; i < 5; i++) {
      const before = engine.stats().completionTokens;
      let left = 0;
      for await (const event of engine.generate(request(words(i, 30), { maxTokens: 1500 }))) {
        if (event.type === "token" && ++left === 3) break;
      }
      await until(() => engine.stats().active === 0);
      made.push(engine.stats().completionTokens - before);
    }
    // the best of five: a shared machine may stop this thread while the engine's goes on
    expect(Math.min(...made)).toBeLessThan(750);
  });

  test("the temporaries stay within the plan", () => {
    expect(engine.stats().arenaPeakBytes).toBeLessThanOrEqual(engine.info.memory.workspaceBytes);
    expect(engine.stats().arenaPeakBytes).toBeGreaterThan(0);
  });
});

describe("what cannot be loaded", () => {
  const failure = async (options: { modelPath: string; contextLength?: number; isa?: string }) => {
    try {
      await startEngine({ backend: "cpu", ...options });
    } catch (error) {
      return (error as PsionicError).code;
    }
    return "loaded";
  };

  test("is a typed error", async () => {
    const garbage = join(tmpdir(), `garbage-${process.pid}.gguf`);
    writeFileSync(garbage, "this is no model");
    expect(await failure({ modelPath: "/nowhere.gguf" })).toBe("file_not_found");
    expect(await failure({ modelPath: garbage })).toBe("file_malformed");
    expect(await failure({ modelPath, contextLength: 2 ** 30 })).toBe("admission_refused");
    expect(await failure({ modelPath, contextLength: -5 })).toBe("invalid_argument");
  });
});
