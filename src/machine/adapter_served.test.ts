/** What the adapter lane trained is served: by its own name beside its base, with its digest, and only on the base it belongs to. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { randomModel, shapes } from "../../scripts/random-model.ts";
import { sha256 } from "../core/digest.ts";
import { referenceCorpus } from "../data/reference_corpus.ts";
import { defaultModelPath } from "../models/default_model.ts";
import { writeModel } from "../models/testing/variants.ts";
import { startEngine } from "../serve/engine/index.ts";
import { testServer } from "../serve/http/testing/client.ts";
import { fileSource, type SharedOptions } from "../serve/models/open.ts";
import { ModelSet } from "../serve/models/set.ts";
import { Bench } from "./testing/bench.ts";
import { withSettings } from "./testing/tamperings.ts";

const bench = new Bench();
afterAll(() => bench[Symbol.dispose]());

let exported: string;
beforeAll(() => {
  const profile = (own: Parameters<typeof withSettings>[0]) => withSettings(own, { learning_rate: "0.01" });
  const contribution = bench.contribute("adapter", { profile });
  exported = join(contribution, "..", "..", "..", "..", "evidence", "adapter");
}, 60_000);

const options: SharedOptions = { backend: "cpu", slots: 2, contextLength: 256, cacheType: "f32", threads: 1 };
const text = referenceCorpus().train[0]!.section.text.slice(0, 300);

test("requests choose it by name; it says more of what it was trained on, and its base is as it was", async () => {
  const adapter = { name: "lane", path: exported };
  const base = fileSource(defaultModelPath(), options);
  const adapted = fileSource(defaultModelPath(), options, { adapter });
  const models = new ModelSet([base, adapted], { preload: base });
  await models.ready;
  await using server = await testServer(models);
  const ask = async (model: string) => {
    const asked = { model, prompt: text, echo: true, logprobs: 0, max_tokens: 1, temperature: 0 };
    const response = await server.post("/v1/completions", asked);
    const body = (await response.json()) as {
      model: string;
      choices: { logprobs: { token_logprobs: (number | null)[] } }[];
    };
    const logprobs = body.choices[0]!.logprobs.token_logprobs.slice(1, -1).map(Number);
    return { headers: response.headers, loss: -logprobs.reduce((a, b) => a + b, 0) / logprobs.length };
  };
  const before = await ask(base.name);
  const stem = base.name.replace(".gguf", "");
  const found = await ask(`${stem}:lane`);
  expect(found.loss).toBeLessThan(before.loss - 0.02);
  expect((await ask(stem)).loss).toBe(before.loss);
  expect((await ask(adapted.name)).loss).toBe(found.loss);
  const digest = sha256(readFileSync(join(exported, "adapter_model.safetensors")));
  const told = (headers: Headers) =>
    ["x-psionic-adapter", "x-psionic-adapter-digest"].map((name) => headers.get(name));
  expect(told(found.headers)).toEqual(["lane", digest]);
  expect(told(before.headers)).toEqual([null, null]);
  const served = found.headers.get("x-psionic-served-adapter-digest") ?? "";
  expect(served).toMatch(/^[0-9a-f]{64}$/);
  const list = (await (await server.get("/v1/models")).json()) as { data: Record<string, unknown>[] };
  const card = list.data.find(({ id }) => id === adapted.name);
  expect(card).toMatchObject({
    psionic_model_id: expect.stringMatching(new RegExp(`:lane@sha256:${served}$`)),
    psionic_adapter: { adapter: "lane", adapter_digest: digest, served_adapter_digest: served, rank: 4 },
  });
  // its base, by its id, is not mistaken for it
  const own = list.data.find(({ id }) => id === base.name);
  expect((await ask(String(own?.psionic_model_id))).loss).toBe(before.loss);
  const missing = await server.post("/v1/completions", {
    model: `${stem}:other`,
    prompt: "a",
    max_tokens: 1,
  });
  expect(missing.status).toBe(400);
  await models.close(true);
}, 60_000);

test("one that fits the base nowhere is refused when it is named, not when a request asks for it", () => {
  const config = join(exported, "adapter_config.json");
  const trained = readFileSync(config, "utf8");
  writeFileSync(config, trained.replace(/"base_digest": "[0-9a-f]{64}"/, '"base_digest": null'));
  const adapter = { name: "lane", path: exported };
  const other = join(bench.folder, "other.gguf");
  writeModel(other, randomModel({ shape: shapes["tiny-qwen3"]!, dtype: "q8_0", seed: 7 }));
  expect(() => fileSource(other, options, { adapter })).toThrow("blk.");
  expect(fileSource(defaultModelPath(), options, { adapter }).name).toEndWith(":lane");
  writeFileSync(config, trained);
});

test("another base, a file that was changed on the way: refused by name", async () => {
  const adapter = { name: "lane", path: exported };
  const asked = { ...options, modelPath: defaultModelPath(), adapter };
  const config = join(exported, "adapter_config.json");
  const trained = readFileSync(config, "utf8");
  writeFileSync(
    config,
    trained.replace(/"base_digest": "[0-9a-f]{64}"/, `"base_digest": "${"1".repeat(64)}"`),
  );
  await expect(startEngine(asked)).rejects.toThrow("the base that it was trained on");
  expect(() => fileSource(defaultModelPath(), options, { adapter })).toThrow(
    "the base that it was trained on",
  );
  writeFileSync(config, trained);
}, 60_000);
