/** Vectors of the engine: the mean of the model's own hidden states, the same bits whatever else runs. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { randomModel, shapes } from "../../../scripts/random-model.ts";
import { openDevice } from "../../backends/index.ts";
import { openSession } from "../../models/testing/session.ts";
import { holding, temporaryFolder, writeModel } from "../../models/testing/variants.ts";
import type { GenerateEvent, GenerateRequest } from "../protocol.ts";
import { type EngineClient, startEngine } from "./index.ts";
import { Pool } from "./pooling.ts";
import { Random } from "./random.ts";

const folder = temporaryFolder();
afterAll(() => folder[Symbol.dispose]());

function words(seed: number, length: number): number[] {
  const random = new Random(seed, 0);
  return Array.from({ length }, () => Math.floor(random.next() * 300));
}

function ask(prompt: readonly number[]): GenerateRequest {
  return { prompt, maxTokens: 0, sampling: {}, stopTokens: [], choices: 1, embedding: true };
}

async function all(engine: EngineClient, request: GenerateRequest): Promise<GenerateEvent[]> {
  const out: GenerateEvent[] = [];
  for await (const event of engine.generate(request)) out.push(event);
  return out;
}

async function vector(engine: EngineClient, prompt: readonly number[]): Promise<Float32Array> {
  const found = (await all(engine, ask(prompt))).find((event) => event.type === "embedding");
  if (found?.type !== "embedding") throw new Error("expected a vector, got none");
  return new Float32Array(Uint8Array.from(Buffer.from(found.base64, "base64")).buffer);
}

type Asked = { readonly name: string; readonly pooling?: number; readonly labels?: number };

function write({ name, pooling, labels }: Asked): string {
  const options = { shape: shapes[name]!, dtype: "q8_0", expertDtype: "q4_0", seed: 31 } as const;
  const { metadata, tensors } = randomModel(options);
  const { architecture, width } = options.shape;
  const values = Float32Array.from({ length: (labels ?? 0) * width }, (_, i) => Math.sin(i));
  const more = labels ? [holding({ name: "cls.output.weight", shape: [labels, width] }, "f32", values)] : [];
  return writeModel(join(folder.path, `${name}-${pooling ?? "x"}.gguf`), {
    metadata:
      pooling === undefined ? metadata : { ...metadata, [`${architecture}.pooling_type`]: u32(pooling) },
    tensors: [...tensors, ...more],
  });
}

const u32 = (value: number) => ({ type: "u32", value }) as const;

/** The model's own, f32 [T, D]. To be called while no engine runs: a process has one CPU device. */
function hiddenStates(path: string, prompt: readonly number[]): Float32Array {
  const device = openDevice("cpu", { threads: 1 });
  const session = openSession(device, path, { cacheType: "f16" });
  const states = session.hidden(prompt);
  session.close();
  device.close();
  return states;
}

function start(modelPath: string): Promise<EngineClient> {
  return startEngine({ modelPath, backend: "cpu", slots: 4, contextLength: 512, threads: 1 });
}

describe.each(["tiny-llama", "tiny-gpt-oss", "tiny-gemma4-e", "tiny-qwen35"])("%s", (name) => {
  let engine: EngineClient;
  const prompt = words(5, 90);
  let states: Float32Array;
  beforeAll(async () => {
    const path = write({ name });
    states = hiddenStates(path, prompt);
    engine = await start(path);
  });
  afterAll(() => engine.close(true));

  test("is the normed mean of the hidden states, alone and beside running streams", async () => {
    const pool = new Pool({ pooling: "mean", width: states.length / prompt.length });
    pool.add(states);
    const alone = await vector(engine, prompt);
    expect([...alone]).toEqual([...pool.result()]);
    expect(Math.hypot(...alone)).toBeCloseTo(1, 6);
    const stream: GenerateRequest = {
      ...{ prompt: words(6, 40), maxTokens: 60, sampling: {}, stopTokens: [], choices: 2, topLogprobs: 1 },
      prefixCache: "bypass",
    };
    const tokens = (events: readonly GenerateEvent[]) => events.filter(({ type }) => type === "token");
    const quiet = tokens(await all(engine, stream));
    const others = [300, 120, 90, 33, 1].map((length) => vector(engine, words(length, length)));
    const [loud, beside] = await Promise.all([all(engine, stream), vector(engine, prompt), ...others]);
    expect([...beside]).toEqual([...alone]);
    const byChoice = (events: readonly GenerateEvent[]) =>
      [0, 1].map((c) => events.filter((e) => e.type === "token" && e.choice === c));
    expect(byChoice(tokens(loud))).toEqual(byChoice(quiet));
  });

  test("leaves nothing in the prefix cache and takes nothing from it", async () => {
    const prompt = words(9, 100);
    await vector(engine, prompt);
    const text = await all(engine, { ...ask(prompt), embedding: false, maxTokens: 2 });
    expect(text.at(-1)).toMatchObject({ cachedTokens: 0 });
    const end = (await all(engine, ask(prompt))).at(-1);
    expect(end).toMatchObject({ cachedTokens: 0, completionTokens: 0, prefixCache: "bypassed" });
  });
});

test("the file says how: first, last, and a reranker's labels", async () => {
  const prompt = words(12, 70);
  const states = hiddenStates(write({ name: "tiny-llama" }), prompt);
  const width = states.length / prompt.length;
  for (const [number, at] of [
    [2, 0],
    [3, prompt.length - 1],
  ] as const) {
    const engine = await start(write({ name: "tiny-llama", pooling: number }));
    expect(engine.info.embedding).toEqual({
      ...{ dimensions: width, pooling: number === 2 ? "first" : "last", declared: true },
    });
    const pool = new Pool({ pooling: "mean", width });
    pool.add(states.slice(at * width, (at + 1) * width));
    expect([...(await vector(engine, prompt))]).toEqual([...pool.result()]);
    await engine.close(true);
  }
  const ranker = await start(write({ name: "tiny-llama", pooling: 4, labels: 2 }));
  const scores = await vector(ranker, prompt);
  const last = states.subarray((prompt.length - 1) * width);
  const [yes, no] = [0, 1].map((label) =>
    last.reduce((sum, x, i) => sum + x * Math.sin(label * width + i), 0),
  );
  expect(scores).toHaveLength(2);
  expect(scores[0]!).toBeCloseTo(1 / (1 + Math.exp(no! - yes!)), 5);
  expect(scores[0]! + scores[1]!).toBeCloseTo(1, 6);
  await ranker.close(true);
});

test("a request for a vector generates nothing", async () => {
  const engine = await start(write({ name: "tiny-llama" }));
  await expect(all(engine, { ...ask([1, 2]), maxTokens: 3 })).rejects.toThrow("no token to generate");
  await expect(all(engine, { ...ask([1, 2]), choices: 2 })).rejects.toThrow("one choice");
  await engine.close(true);
});
