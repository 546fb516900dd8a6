/** The server over the default model on the CPU, with the clients that people use. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import OpenAI from "openai";
import { generate } from "../generation.ts";
import { openServedModel } from "../served_model.ts";
import { fuzzBodies } from "./fuzz.ts";
import type { ServedModel } from "./options.ts";
import { sseData, type TestServer, testServer, until } from "./testing/client.ts";

const modelPath = join(import.meta.dir, "../../../fixtures/docs-oss-13m-mxfp4.gguf");
const name = "docs-oss-13m-mxfp4.gguf";
const chat = "/v1/chat/completions";
const question = [{ role: "user" as const, content: "Why does HTTPS matter?" }];
const sentence =
  "HTTPS protects users by encrypting traffic, preventing tampering, and confirming they are connected to the right website.";

let model: ServedModel;
let server: TestServer;
let openai: OpenAI;
let provider: ReturnType<typeof createOpenAICompatible>;

beforeAll(async () => {
  const loading = openServedModel({ modelPath, backend: "cpu", slots: 8, contextLength: 1024 });
  server = await testServer(loading);
  expect((await server.get("/health")).status).toBe(503);
  model = await loading;
  openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
  provider = createOpenAICompatible({ name: "psionic", baseURL: `${server.url}/v1`, includeUsage: true });
}, 60_000);

afterAll(async () => {
  await server.stop({ force: true });
  await model.engine.close(true);
});

test("the greedy answer, the same streamed and whole, and cached the second time", async () => {
  const whole = await openai.chat.completions.create({ model: name, messages: question });
  expect(whole.choices[0]).toMatchObject({ finish_reason: "stop", message: { content: sentence } });
  const stream = openai.chat.completions.stream({
    model: name,
    messages: question,
    stream_options: { include_usage: true },
  });
  const final = await stream.finalChatCompletion();
  expect(final.choices[0]?.message.content).toBe(sentence);
  const usage = await stream.totalUsage();
  expect(usage.prompt_tokens).toBe(whole.usage?.prompt_tokens ?? 0);
  expect(usage.completion_tokens).toBe(whole.usage?.completion_tokens ?? 0);
  expect(usage.prompt_tokens_details?.cached_tokens).toBeGreaterThan(0);
});

test("openai: stop, n, logprobs, token limit", async () => {
  const stopped = await openai.chat.completions.create({
    model: name,
    messages: question,
    stop: " tampering",
  });
  expect(stopped.choices[0]?.message.content).toBe("HTTPS protects users by encrypting traffic, preventing");
  const several = await openai.chat.completions.create({
    model: name,
    messages: question,
    n: 3,
    max_completion_tokens: 8,
    logprobs: true,
    top_logprobs: 2,
  });
  expect(several.choices.map(({ index, finish_reason }) => [index, finish_reason])).toEqual([
    [0, "length"],
    [1, "length"],
    [2, "length"],
  ]);
  for (const { message, logprobs } of several.choices) {
    const entries = logprobs?.content ?? [];
    expect(entries.map(({ token }) => token).join("")).toBe(message.content ?? "");
    for (const { logprob, top_logprobs } of entries) {
      expect(logprob).toBeLessThanOrEqual(0);
      expect(top_logprobs).toHaveLength(2);
      expect(top_logprobs[0]!.logprob).toBeCloseTo(logprob, 6); // greedy takes the likeliest
    }
  }
});

test("openai: a seed repeats a drawn answer; without one another comes", async () => {
  const draw = async (seed: number) => {
    const answer = await openai.chat.completions.create({
      model: name,
      messages: question,
      temperature: 10,
      top_p: 1,
      max_tokens: 24,
      seed,
    });
    return answer.choices[0]?.message.content;
  };
  expect(await draw(11)).toBe(await draw(11));
  const others = await Promise.all([1, 2, 3, 4, 5].map(draw));
  expect(new Set(others).size).toBeGreaterThan(1);
});

test("openai: a prompt beyond the context is refused with both numbers", async () => {
  const messages = [{ role: "user" as const, content: "word ".repeat(5000) }];
  const failure = await openai.chat.completions.create({ model: name, messages }).then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(failure).toMatchObject({ status: 400, code: "context_length_exceeded" });
  expect(String(failure)).toMatch(/1024 tokens.*prompt has \d{4}/);
});

test("ai sdk: text and stream", async () => {
  const answer = await generateText({ model: provider(name), messages: question });
  expect(answer.text).toBe(sentence);
  expect(answer.finishReason).toBe("stop");
  const result = streamText({ model: provider(name), messages: question });
  let text = "";
  for await (const delta of result.textStream) text += delta;
  expect(text).toBe(sentence);
  expect((await result.usage).inputTokens).toBeGreaterThan(60);
});

test("a client that goes away frees its slot", async () => {
  const { engine } = model;
  const body = { messages: question, stream: true, temperature: 1, ignore_eos: true };
  const made: number[] = [];
  for (let i = 0; i < 5; i++) {
    await until(() => engine.stats().active === 0);
    const before = engine.stats().completionTokens;
    const leave = new AbortController();
    const response = await server.post(chat, body, { signal: leave.signal });
    const reader = response.body!.getReader();
    while (!new TextDecoder().decode((await reader.read()).value).includes('"content":"')) {}
    leave.abort();
    await until(() => engine.stats().active === 0);
    made.push(engine.stats().completionTokens - before);
  }
  // the best of five: where this thread is stopped for long the engine comes to the end of its context
  expect(Math.min(...made)).toBeLessThan(500);
});

test("responses: the second turn finds the first one's work in the cache", async () => {
  const first = await openai.responses.create({ model: name, input: question });
  expect(first.output_text).toBe(sentence);
  const second = await openai.responses.create({
    model: name,
    previous_response_id: first.id,
    input: "And TLS?",
    max_output_tokens: 8,
  });
  const usage = second.usage!;
  expect(usage.input_tokens).toBeGreaterThan(first.usage!.total_tokens);
  expect(usage.input_tokens_details.cached_tokens).toBeGreaterThan(first.usage!.input_tokens);
  const counted = await server.post("/v1/messages/count_tokens", { model: name, messages: question });
  expect(await counted.json()).toEqual({ input_tokens: first.usage!.input_tokens });
});

test("an answer that is cut at its budget and goes on with its own next tokens is the same answer", async () => {
  const tokens = model.tokenizer.encode(sentence, { special: false, bos: false, eos: false });
  const prompt = model.chat.prompt(question, { reasoningEffort: "low" });
  const start = model.tokenizer.encode("<|channel|>final<|message|>", {
    special: true,
    bos: false,
    eos: false,
  });
  const parser = () => {
    const inner = model.chat.parser();
    for (const token of start) inner.push(token);
    // all is taken for reasoning until the budget is spent
    let seen = 0;
    return {
      unparsed: 0,
      inContent: false,
      push: (token: number) => {
        seen += 1;
        const type = seen <= 5 ? ("reasoning" as const) : ("content" as const);
        return inner
          .push(token)
          .map((event) => (event.type === "toolCall" ? event : { type, text: event.text }));
      },
      finish: () => [],
    };
  };
  const request = {
    prompt: [...prompt, ...start],
    sampling: {},
    stopTokens: [...model.tokenizer.stopTokens, ...model.chat.stopTokens],
    choices: 1,
  };
  const budget = { tokens: 5, closings: [tokens.slice(5, 8)] };
  let text = "";
  let completed = 0;
  const { signal } = new AbortController();
  for await (const event of generate(model.engine, { request, stops: [], parser, budget }, { signal })) {
    if (event.type === "content" || event.type === "reasoning") text += event.text;
    if (event.type === "end") completed = event.summary.completionTokens;
  }
  expect(text).toBe(sentence);
  // the three that were given are not the model's; its stop token is
  expect(completed).toBe(tokens.length - 3 + 1);
});

test("without max_tokens an answer runs to the end of the context", async () => {
  const body = { prompt: "HTTPS", ignore_eos: true, temperature: 0.5, seed: 1 };
  const answer = await (await server.post("/v1/completions", body)).json();
  expect(answer.choices[0].finish_reason).toBe("length");
  expect(answer.usage.total_tokens).toBe(1024);
}, 120_000);

test("100 streams at once: no error, no mix-up", async () => {
  const ask = (i: number) => ({
    messages: [{ role: "user", content: `Question ${i}: what is TLS?` }],
    temperature: 0.9,
    seed: i,
    max_tokens: 12,
  });
  const streamed = Array.from({ length: 100 }, async (_, i) => {
    const response = await server.post(chat, { ...ask(i), stream: true });
    const data = sseData(await response.text());
    expect(data.at(-1)).toBe("[DONE]");
    return data
      .slice(0, -1)
      .map((line) => JSON.parse(line).choices[0].delta.content ?? "")
      .join("");
  });
  const texts = await Promise.all(streamed);
  // Alone and from a warm cache each answer is the same.
  for (const i of [0, 17, 42, 99]) {
    const alone = await (await server.post(chat, ask(i))).json();
    expect(texts[i]).toBe(alone.choices[0].message.content);
  }
}, 60_000);

test("mutated bodies over the real model", async () => {
  const { statuses } = await fuzzBodies(3, { count: 150 }, server.handle);
  expect(statuses[200]).toBeGreaterThan(10);
  expect(server.errors).toEqual([]);
}, 60_000);
