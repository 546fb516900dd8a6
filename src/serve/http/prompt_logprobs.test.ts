/** Log-probabilities of /v1/completions against the model's own logits. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { openDevice } from "../../backends/index.ts";
import { openSession } from "../../models/testing/session.ts";
import { openServedModel } from "../served_model.ts";
import type { ServedModel } from "./options.ts";
import { sseData, type TestServer, testServer } from "./testing/client.ts";

const modelPath = join(import.meta.dir, "../../../fixtures/docs-oss-13m-mxfp4.gguf");
const prompt = Array.from({ length: 60 }, (_, i) => (i * 7919) % 4000);
/** Logits are the same bits; their logarithms are summed in f32 there and in f64 here. */
const tolerance = 1e-4;

let model: ServedModel;
let server: TestServer;
/** [T, V] */
let rows: readonly Float64Array[];

beforeAll(async () => {
  // before the engine: a process has one CPU device
  const device = openDevice("cpu", { threads: 1 });
  const session = openSession(device, modelPath, { cacheType: "f16" });
  const all = session.run([prompt]);
  const width = session.model.config.vocabularySize;
  rows = prompt.map((_, i) => logSoftmax(all.subarray(i * width, (i + 1) * width)));
  session.close();
  device.close();
  model = await openServedModel({ modelPath, backend: "cpu", slots: 4, contextLength: 512, threads: 1 });
  server = await testServer(model);
}, 60_000);

afterAll(async () => {
  await server.stop({ force: true });
  await model.engine.close(true);
});

function logSoftmax(logits: Float32Array): Float64Array {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = most + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - most), 0));
  return Float64Array.from(logits, (x) => x - total);
}

type Logprobs = {
  readonly tokens: string[];
  readonly token_logprobs: (number | null)[];
  readonly top_logprobs: (Record<string, number> | null)[];
  readonly text_offset: number[];
};
type Choice = { readonly index: number; readonly text: string; readonly logprobs: Logprobs };

async function complete(body: object): Promise<Choice[]> {
  const response = await server.post("/v1/completions", { prompt, temperature: 0, ...body });
  return (await response.json()).choices;
}

test("echo with logprobs gives what the logits say, of the prompt and of what follows", async () => {
  const [choice] = await complete({ echo: true, logprobs: 4, max_tokens: 3 });
  const { token_logprobs, top_logprobs, tokens, text_offset } = choice!.logprobs;
  expect(token_logprobs).toHaveLength(prompt.length + 3);
  expect([token_logprobs[0], top_logprobs[0]]).toEqual([null, null]);
  for (let i = 1; i < prompt.length; i++) {
    const row = rows[i - 1]!;
    expect(Math.abs(token_logprobs[i]! - row[prompt[i]!]!)).toBeLessThan(tolerance);
    const best = Math.max(...Object.values(top_logprobs[i]!));
    expect(Math.abs(best - Math.max(...row))).toBeLessThan(tolerance);
  }
  // the first token that was generated is the likeliest behind the prompt
  expect(Math.abs(token_logprobs[prompt.length]! - Math.max(...rows.at(-1)!))).toBeLessThan(tolerance);
  expect(choice!.text.startsWith(model.tokenizer.decode(prompt, { special: true }))).toBe(true);
  expect(tokens).toHaveLength(token_logprobs.length);
  expect(text_offset.every((offset, i) => i === 0 || offset >= text_offset[i - 1]!)).toBe(true);
});

test("scoring alone: no token is generated; a stream and every choice tell the same", async () => {
  const [scored] = await complete({ echo: true, logprobs: 0, max_tokens: 0 });
  expect(scored!.logprobs.token_logprobs).toHaveLength(prompt.length);
  expect(scored!.text).toBe(model.tokenizer.decode(prompt, { special: true }));
  const both = await complete({ echo: true, logprobs: 0, max_tokens: 0, n: 2 });
  expect(both.map(({ logprobs }) => logprobs)).toEqual([scored!.logprobs, scored!.logprobs]);
  const response = await server.post("/v1/completions", {
    ...{ prompt, echo: true, logprobs: 0, max_tokens: 0, stream: true },
  });
  const chunks = sseData(await response.text())
    .filter((line) => line !== "[DONE]")
    .flatMap((line) => JSON.parse(line).choices as Choice[]);
  const streamed = chunks.flatMap(({ logprobs }) => logprobs?.token_logprobs ?? []);
  expect(streamed).toEqual(scored!.logprobs.token_logprobs);
  expect(chunks.map(({ text }) => text).join("")).toBe(scored!.text);
});

test("without echo only what is generated has log-probabilities", async () => {
  const [choice] = await complete({ logprobs: 2, max_tokens: 4 });
  expect(choice!.logprobs.token_logprobs.length).toBeLessThanOrEqual(4);
  expect(choice!.logprobs.text_offset[0]).toBe(0);
  for (const top of choice!.logprobs.top_logprobs) expect(Object.keys(top!).length).toBeLessThanOrEqual(2);
});
