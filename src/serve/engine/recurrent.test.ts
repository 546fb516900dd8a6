/** The engine with models that have recurrent layers: warm answers equal cold ones to the last bit, whatever else runs. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { randomModel, shapes } from "../../../scripts/random-model.ts";
import { temporaryFolder, writeModel } from "../../models/testing/variants.ts";
import type { GenerateEvent, GenerateRequest } from "../protocol.ts";
import { type EngineClient, startEngine } from "./index.ts";
import { Random } from "./random.ts";

const folder = temporaryFolder();
afterAll(() => folder[Symbol.dispose]());

function words(seed: number, length: number): number[] {
  const random = new Random(seed, 0);
  return Array.from({ length }, () => Math.floor(random.next() * 300));
}

function request(prompt: readonly number[], more: Partial<GenerateRequest> = {}): GenerateRequest {
  return { prompt, sampling: {}, stopTokens: [], choices: 1, maxTokens: 20, topLogprobs: 3, ...more };
}

/** Tokens with their log-probabilities: equal only when every logit that counts is equal to the last bit. */
function answer(events: readonly GenerateEvent[]): unknown[] {
  return events.flatMap((e) => (e.type === "token" ? [[e.choice, e.token, e.logprob, e.top]] : []));
}

function tokens(events: readonly GenerateEvent[]): number[] {
  return events.flatMap((e) => (e.type === "token" ? [e.token] : []));
}

function cached(events: readonly GenerateEvent[]): number {
  const end = events.at(-1);
  if (end?.type !== "end") throw new Error(`expected an end event, got ${end?.type}`);
  return end.cachedTokens;
}

describe.each(["tiny-qwen35", "tiny-qwen35moe"])("%s", (name) => {
  let engine: EngineClient;
  beforeAll(async () => {
    const options = { shape: shapes[name]!, dtype: "q8_0", expertDtype: "q4_0", seed: 31 } as const;
    const modelPath = writeModel(join(folder.path, `${name}.gguf`), randomModel(options));
    engine = await startEngine({ modelPath, backend: "cpu", slots: 4, contextLength: 512, threads: 1 });
  });
  afterAll(() => engine.close(true));

  async function all(ask: GenerateRequest): Promise<GenerateEvent[]> {
    const out: GenerateEvent[] = [];
    for await (const event of engine.generate(ask)) out.push(event);
    return out;
  }

  test("a repeated prompt and the next two turns, cold and warm", async () => {
    const prompt = words(1, 150);
    const first = await all(request(prompt, { maxTokens: 70 }));
    expect(cached(first)).toBe(0);
    const repeated = await all(request(prompt, { maxTokens: 70 }));
    expect(cached(repeated)).toBe(128);
    expect(answer(repeated)).toEqual(answer(first));
    const second = [...prompt, ...tokens(first), ...words(2, 40)];
    const warm = await all(request(second, { maxTokens: 50 }));
    expect(cached(warm)).toBe(192);
    expect(answer(warm)).toEqual(
      answer(await all(request(second, { maxTokens: 50, prefixCache: "bypass" }))),
    );
    const third = [...second, ...tokens(warm), ...words(3, 20)];
    const warmer = await all(request(third));
    expect(cached(warmer)).toBeGreaterThanOrEqual(288);
    expect(answer(warmer)).toEqual(answer(await all(request(third, { prefixCache: "bypass" }))));
  });

  test("requests beside each other, choices among them, answer as alone", async () => {
    const shared = words(4, 70);
    const asks = Array.from({ length: 7 }, (_, i) =>
      request([...shared, ...words(10 + i, 20 + 13 * i)], {
        maxTokens: 10 + 5 * i,
        choices: i === 2 ? 3 : 1,
        sampling: i % 2 ? { temperature: 0.9, seed: i } : {},
      }),
    );
    const together = await Promise.all(asks.map(all));
    for (const [i, ask] of asks.entries()) {
      const alone = answer(await all({ ...ask, prefixCache: "bypass" }));
      const byChoice = (events: unknown[]) =>
        [0, 1, 2].map((c) => events.filter((e) => (e as number[])[0] === c));
      expect(byChoice(answer(together[i]!))).toEqual(byChoice(alone));
    }
  });

  test("the plan has a state for every slot and more for copies", () => {
    const { memory } = engine.info;
    const states = 3 * 4 * (3 * 256 + 4 * 32 * 32);
    const pages = 16 * 2 * 2 * 64 * 32 * 2;
    expect(memory.cacheBytes).toBe(4 * pages + (4 + 16) * states);
  });
});
