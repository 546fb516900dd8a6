/** The prefix cache in files: an engine that starts again goes on where the last one ended, with the same bits. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { randomModel, shapes } from "../../../scripts/random-model.ts";
import { writeCheckpoint } from "../../models/testing/checkpoints.ts";
import { temporaryFolder, writeModel } from "../../models/testing/variants.ts";
import type { EngineOptions, GenerateEvent, GenerateRequest } from "../protocol.ts";
import { type EngineClient, startEngine } from "./index.ts";
import { Random } from "./random.ts";

/** Engines are started and ended many times, on machines that have other things to do. */
setDefaultTimeout(60_000);

const folder = temporaryFolder();
afterAll(() => folder[Symbol.dispose]());
const defaultModel = join(import.meta.dir, "../../../fixtures/docs-oss-13m-mxfp4.gguf");

function words(seed: number, length: number): number[] {
  const random = new Random(seed, 0);
  return Array.from({ length }, () => Math.floor(random.next() * 300));
}

function ask(prompt: readonly number[], more: Partial<GenerateRequest> = {}): GenerateRequest {
  return { prompt, sampling: {}, stopTokens: [], choices: 1, maxTokens: 24, topLogprobs: 3, ...more };
}

async function all(engine: EngineClient, request: GenerateRequest): Promise<GenerateEvent[]> {
  const out: GenerateEvent[] = [];
  for await (const event of engine.generate(request)) out.push(event);
  return out;
}

const answer = (events: readonly GenerateEvent[]) =>
  events.flatMap((e) => (e.type === "token" ? [[e.choice, e.token, e.logprob, e.top]] : []));
const tokens = (events: readonly GenerateEvent[]) =>
  events.flatMap((e) => (e.type === "token" ? [e.token] : []));

function cached(events: readonly GenerateEvent[]): number {
  const end = events.at(-1);
  if (end?.type !== "end") throw new Error(`expected an end event, got ${end?.type}`);
  return end.cachedTokens;
}

let stores = 0;
function newStore(): string {
  return join(folder.path, `store-${++stores}`);
}

type Started = { readonly engine: EngineClient; readonly warnings: string[] };

// an engine that closes waits ten seconds for a busy disk, and one that a test left open takes the device of the next
setDefaultTimeout(240_000);

async function start(modelPath: string, store: string, more: Partial<EngineOptions> = {}): Promise<Started> {
  const warnings: string[] = [];
  const prefixDisk = { folder: store, limitBytes: 2 ** 30 };
  const options = {
    modelPath,
    backend: "cpu",
    slots: 4,
    contextLength: 768,
    threads: 1,
    prefixDisk,
    ...more,
  } as const;
  const engine = await startEngine(options, undefined, (message) => warnings.push(message));
  return { engine, warnings };
}

function tinyModel(name: string): string {
  const options = { shape: shapes[name]!, dtype: "q8_0", expertDtype: "q4_0", seed: 31 } as const;
  const path = join(folder.path, `${name}.gguf`);
  return existsSync(path) ? path : writeModel(path, randomModel(options));
}

function blocks(store: string): string[] {
  const below = (path: string) => (existsSync(path) ? readdirSync(path) : []);
  return below(store).flatMap((group) => below(join(store, group)).map((name) => join(store, group, name)));
}

/** An adapter of one matrix of `tiny-gpt-oss`, with the same weights each time. */
function adapterOf(alpha: number): string {
  const model = randomModel({ shape: shapes["tiny-gpt-oss"]!, dtype: "q8_0", seed: 31 });
  const [outputs = 0, inputs = 0] = model.tensors.find((t) => t.name === "blk.0.attn_v.weight")?.shape ?? [];
  const part = (letter: string, shape: readonly number[]) => ({
    name: `base_model.model.model.layers.0.self_attn.v_proj.lora_${letter}.weight`,
    ...{ dtype: "F32" as const, shape, data: new Float32Array(shape[0]! * shape[1]!).fill(0.1) },
  });
  const parts = [part("A", [1, inputs]), part("B", [outputs, 1])];
  const path = writeCheckpoint(join(folder.path, `alpha-${alpha}`), {}, parts);
  renameSync(join(path, "model.safetensors"), join(path, "adapter_model.safetensors"));
  writeFileSync(join(path, "adapter_config.json"), JSON.stringify({ r: 1, lora_alpha: alpha }));
  return path;
}

test("pages of an adapter are not read under another alpha, nor under the base", async () => {
  const [store, path] = [newStore(), tinyModel("tiny-gpt-oss")];
  const [one, two] = [1, 2].map((alpha) => ({ name: "style", path: adapterOf(alpha) }));
  const reused: number[] = [];
  const served = new Set<string | undefined>();
  for (const adapter of [one, one, two, undefined]) {
    const { engine } = await start(path, store, adapter ? { adapter } : {});
    reused.push(cached(await all(engine, ask(words(1, 200)))));
    served.add(engine.info.adapter?.servedDigest);
    await engine.close();
  }
  expect([reused[0], reused[2], reused[3]]).toEqual([0, 0, 0]);
  expect(reused[1]).toBeGreaterThan(100);
  // each alpha, and the base
  expect(served.size).toBe(3);
});

const models = ["tiny-llama", "tiny-gpt-oss", "tiny-gemma4-e", "tiny-qwen35", "default"];

describe.each(models)("%s", (name) => {
  const path = name === "default" ? defaultModel : tinyModel(name);

  test("the second turn after a restart is read from files and has the bits of a cold one", async () => {
    const store = newStore();
    const prompt = words(1, 300);
    const first = await start(path, store);
    const told = await all(first.engine, ask(prompt, { maxTokens: 70 }));
    const second = [...prompt, ...tokens(told), ...words(2, 40)];
    const cold = await all(first.engine, ask(second, { prefixCache: "bypass" }));
    await first.engine.close();
    expect(blocks(store).length).toBeGreaterThan(8);

    const again = await start(path, store);
    // beside others, which take their steps in between
    const [warm] = await Promise.all([
      all(again.engine, ask(second)),
      all(again.engine, ask(words(7, 90), { prefixCache: "bypass" })),
    ]);
    expect(cached(warm)).toBeGreaterThanOrEqual(352);
    expect(answer(warm)).toEqual(answer(cold));
    const stats = again.engine.stats();
    expect(stats).toMatchObject({ diskHits: 1, diskRejected: 0, diskFailures: 0, prefixHits: 1 });
    expect(stats.diskReadBytes).toBeGreaterThan(0);
    expect(stats.diskCachedTokens).toBeGreaterThanOrEqual(352);
    // now it is in memory
    expect(cached(await all(again.engine, ask(second)))).toBeGreaterThanOrEqual(352);
    expect(again.engine.stats().diskHits).toBe(1);
    expect(again.warnings).toEqual([]);
    await again.engine.close();
  });
});

test("what is not what its name says is ignored, told once, and written again in the same turn", async () => {
  const store = newStore();
  const path = tinyModel("tiny-qwen35");
  const prompt = words(3, 200);
  const first = await start(path, store);
  const turn = ask(prompt, { maxTokens: 70 });
  const told = await all(first.engine, turn);
  await first.engine.close();
  const files = blocks(store);
  for (const [i, file] of files.entries()) {
    const bytes = readFileSync(file);
    if (i % 4 === 0) bytes[bytes.length - 1]! ^= 1;
    else if (i % 4 === 1) bytes[70]! ^= 128;
    writeFileSync(
      file,
      i % 4 === 2 ? bytes.subarray(0, bytes.length / 2) : i % 4 === 3 ? "not a block" : bytes,
    );
  }
  mkdirSync(join(store, "zz"));
  writeFileSync(join(store, "zz", "foreign"), "of somebody else");
  const again = await start(path, store);
  expect(answer(await all(again.engine, turn))).toEqual(answer(told));
  await until(() => again.warnings.length > 0);
  const { diskHits, diskRejected } = again.engine.stats();
  expect(diskHits).toBe(0);
  // all of the prompt's, not only the first
  expect(diskRejected).toBeGreaterThan(6);
  expect(again.warnings).toEqual([
    expect.stringMatching(new RegExp(` is ignored: .*; so are ${diskRejected - 1} more, found with it`)),
  ]);
  await again.engine.close();
  expect(existsSync(join(store, "zz", "foreign"))).toBe(true);
  // one turn has made all of them good again, those of its answer too
  const third = await start(path, store);
  const whole = [...prompt, ...tokens(told), 1];
  expect(cached(await all(third.engine, ask(whole)))).toBe(256);
  expect(third.engine.stats()).toMatchObject({ diskHits: 1, diskRejected: 0 });
  expect(third.warnings).toEqual([]);
  await third.engine.close();
});

test("other tenants, models and cache types find nothing", async () => {
  const store = newStore();
  const prompt = words(4, 200);
  const first = await start(tinyModel("tiny-llama"), store);
  await all(first.engine, ask(prompt, { tenant: "a" }));
  await first.engine.close();
  const same = await start(tinyModel("tiny-llama"), store);
  expect(cached(await all(same.engine, ask(prompt, { tenant: "b" })))).toBe(0);
  expect(cached(await all(same.engine, ask(prompt, { tenant: "a" })))).toBe(192);
  await same.engine.close();
  const other = await start(tinyModel("tiny-llama"), store, { cacheType: "f32" });
  expect(cached(await all(other.engine, ask(prompt, { tenant: "a" })))).toBe(0);
  await other.engine.close();
  const model = await start(tinyModel("tiny-gpt-oss"), store);
  expect(cached(await all(model.engine, ask(prompt, { tenant: "a" })))).toBe(0);
  await model.engine.close();
});

test("bypassing requests leave nothing, invalidating ones remove what there is", async () => {
  const store = newStore();
  const prompt = words(5, 200);
  const path = tinyModel("tiny-llama");
  const first = await start(path, store);
  await all(first.engine, ask(prompt, { prefixCache: "bypass" }));
  await first.engine.close();
  expect(blocks(store)).toEqual([]);
  const second = await start(path, store);
  await all(second.engine, ask(prompt));
  await second.engine.close();
  const before = blocks(store).map((file) => statSync(file).birthtimeMs);
  const third = await start(path, store);
  const events = await all(third.engine, ask(prompt, { prefixCache: "invalidate" }));
  expect(cached(events)).toBe(0);
  await third.engine.close();
  const after = blocks(store).map((file) => statSync(file).birthtimeMs);
  expect(Math.min(...after)).toBeGreaterThan(Math.max(...before));
});

test("the folder stays within its limit, the last used last", async () => {
  const store = newStore();
  const path = tinyModel("tiny-gpt-oss");
  const limitBytes = 2 ** 20;
  const { engine, warnings } = await start(path, store, { prefixDisk: { folder: store, limitBytes } });
  for (let i = 0; i < 12; i++) await all(engine, ask(words(100 + i, 250), { maxTokens: 4 }));
  await engine.close();
  const size = () => blocks(store).reduce((sum, file) => sum + statSync(file).size, 0);
  expect(size()).toBeGreaterThan(limitBytes / 2);
  expect(size()).toBeLessThanOrEqual(limitBytes);
  expect(warnings).toEqual([]);
  // the last prompt is still there, the first is not
  const again = await start(path, store, { prefixDisk: { folder: store, limitBytes } });
  expect(cached(await all(again.engine, ask(words(111, 250), { maxTokens: 4 })))).toBe(224);
  expect(cached(await all(again.engine, ask(words(100, 250), { maxTokens: 4 })))).toBe(0);
  await again.engine.close();
});

test("a file that another process left unfinished is no block", async () => {
  const store = newStore();
  const path = tinyModel("tiny-llama");
  const first = await start(path, store);
  await all(first.engine, ask(words(6, 100)));
  await first.engine.close();
  const [file] = blocks(store);
  appendFileSync(`${file}.123-456.part`, "half");
  const again = await start(path, store);
  expect(cached(await all(again.engine, ask(words(6, 100))))).toBe(96);
  await again.engine.close();
});

test("a folder that cannot be made is an error that names it", async () => {
  const file = join(folder.path, "a file");
  writeFileSync(file, "");
  await expect(start(tinyModel("tiny-llama"), join(file, "below"))).rejects.toThrow(
    /prefix-disk-dir.*a file/,
  );
});

test("a turn counts all pages of its chat as used: the beginning of a long one stays", async () => {
  const store = newStore();
  const path = tinyModel("tiny-llama");
  const { engine } = await start(path, store);
  await all(engine, ask(words(20, 100), { maxTokens: 1 }));
  await until(() => engine.stats().diskWrittenBytes > 0 && blocks(store).length === 3);
  const oldest = () => Math.min(...blocks(store).map((file) => statSync(file).mtimeMs));
  const before = oldest();
  await Bun.sleep(30);
  await all(engine, ask([...words(20, 100), ...words(21, 100)], { maxTokens: 1 }));
  await engine.close();
  expect(blocks(store)).toHaveLength(6);
  expect(oldest()).toBeGreaterThan(before + 10);
});

test("a disk that takes nothing is told once; answers go on", async () => {
  const store = newStore();
  mkdirSync(store);
  for (let i = 0; i < 256; i++) writeFileSync(join(store, i.toString(16).padStart(2, "0")), "in the way");
  const { engine, warnings } = await start(tinyModel("tiny-llama"), store);
  const first = await all(engine, ask(words(8, 100)));
  await until(() => engine.stats().diskFailures >= 3);
  expect(answer(await all(engine, ask(words(8, 100))))).toEqual(answer(first));
  await engine.close();
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toMatch(/^The prefix cache could not be written: /);
});

async function until(condition: () => boolean): Promise<void> {
  const limit = performance.now() + 30_000;
  while (!condition()) {
    if (performance.now() > limit) throw new Error("the condition did not come true within half a minute");
    await Bun.sleep(5);
  }
}
