/** What real clients make of failures, of an overloaded server, and of several calls in one answer. */
import { afterAll, expect, test } from "bun:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import type { AIMessageChunk } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";
import { unexpected } from "../../core/error.ts";
import { qwen35Format } from "../../models/chat/qwen35.ts";
import { ScriptedEngine } from "../scripted_engine.ts";
import { type TestServer, testServer } from "./testing/client.ts";
import { byteTokenizer, harmonyModel, speech } from "./testing/scripted.ts";

const model = "Test-Model.gguf";
const messages = [{ role: "user" as const, content: "Why?" }];

const servers: TestServer[] = [];
afterAll(() => Promise.all(servers.map((server) => server.stop({ force: true }))));

async function baseOf(served: Parameters<typeof testServer>[0]): Promise<string> {
  const server = await testServer(served);
  servers.push(server);
  return `${server.url}/v1`;
}

function langchain(baseURL: string): ChatOpenAI {
  return new ChatOpenAI({ model, apiKey: "none", maxRetries: 0, configuration: { baseURL } });
}

function aiSdk(baseURL: string) {
  return createOpenAICompatible({ name: "psionic", baseURL })(model);
}

/** What `run` throws. */
const thrown = (run: () => Promise<unknown>): Promise<unknown> =>
  run().then(
    () => "nothing",
    (error: unknown) => error,
  );

test("an engine that fails in the middle of a stream is an error for each client, not a short answer", async () => {
  const failAt = { token: 20, error: new Error("a secret of the engine") };
  const baseURL = await baseOf(harmonyModel({ answers: [speech("A long answer that breaks.")], failAt }));
  const openai = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
  const chat = await thrown(async () => {
    for await (const _ of await openai.chat.completions.create({ model, messages, stream: true }));
  });
  expect(chat).toBeInstanceOf(OpenAI.APIError);
  expect(String(chat)).toContain("The server failed");
  expect(String(chat)).not.toContain("secret");
  const kinds: string[] = [];
  for await (const event of await openai.responses.create({ model, input: "Why?", stream: true }))
    kinds.push(event.type);
  expect(kinds.at(-1)).toBe("response.failed");
  const errors: unknown[] = [];
  const text = streamText({
    ...{ model: aiSdk(baseURL), messages, maxRetries: 0 },
    onError: ({ error }) => void errors.push(error),
  });
  for await (const _ of text.textStream);
  expect(String((errors[0] as { message?: string }).message ?? errors[0])).toContain("The server failed");
  const chain = await thrown(async () => {
    for await (const _ of await langchain(baseURL).stream("Why?"));
  });
  expect(String(chain)).toContain("The server failed");
});

test("openai: a full queue is tried again when retry-after says, an invalid request never", async () => {
  const refuse = unexpected("queue_full", "engine", "a place", "none");
  const busy = harmonyModel({ answers: ["x"], refuse });
  const openai = new OpenAI({ baseURL: await baseOf(busy), apiKey: "none", maxRetries: 1 });
  const begun = performance.now();
  expect(await thrown(() => openai.chat.completions.create({ model, messages }))).toMatchObject({
    status: 503,
    code: "queue_full",
  });
  expect(busy.engine.requests).toHaveLength(2);
  expect(performance.now() - begun).toBeGreaterThan(900);
  const wrong = { model, messages, temperature: -1 };
  expect(await thrown(() => openai.chat.completions.create(wrong))).toMatchObject({ status: 400 });
  expect(busy.engine.requests).toHaveLength(2);
});

const controls = [
  ...["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"],
  ...["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"],
];
const callOf = (city: string): string =>
  `<tool_call>\n<function=weather>\n<parameter=city>\n${city}\n</parameter>\n</function>\n</tool_call>`;

/** A Qwen 3.5 that asks for two cities at once. */
function twoCalls() {
  const tokenizer = byteTokenizer(controls);
  const answers = [`${callOf("Oslo")}\n${callOf("Rome")}<|im_end|>`];
  const engine = new ScriptedEngine({ answers, contextLength: 8192 }, tokenizer);
  return { engine, tokenizer, chat: qwen35Format(tokenizer, { thinks: false }) };
}

const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] } as const;
const weather = { type: "function" as const, function: { name: "weather", parameters } };

test("two calls of one answer: each client's accumulator keeps them apart", async () => {
  const baseURL = await baseOf(twoCalls());
  const openai = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
  const stream = openai.chat.completions.stream({ model, messages, tools: [weather] });
  const [choice] = (await stream.finalChatCompletion()).choices;
  const calls = choice!.message.tool_calls!;
  expect(calls.map((call) => (call.type === "function" ? call.function.arguments : ""))).toEqual([
    ...['{"city":"Oslo"}', '{"city":"Rome"}'],
  ]);
  expect(new Set(calls.map(({ id }) => id)).size).toBe(2);
  const cities: string[] = [];
  const inputSchema = jsonSchema<{ city: string }>(parameters as Parameters<typeof jsonSchema>[0] & object);
  const text = streamText({
    ...{ model: aiSdk(baseURL), messages },
    tools: { weather: tool({ inputSchema, execute: async ({ city }) => void cities.push(city) }) },
  });
  await text.consumeStream();
  expect(cities).toEqual(["Oslo", "Rome"]);
  let whole: AIMessageChunk | undefined;
  for await (const chunk of await langchain(baseURL).bindTools([weather]).stream("Why?"))
    whole = whole?.concat(chunk) ?? chunk;
  expect(whole!.tool_calls!.map(({ args }) => args)).toEqual([{ city: "Oslo" }, { city: "Rome" }]);
  const response = await openai.responses.create({
    ...{ model, input: "Why?" },
    tools: [{ type: "function", name: "weather", strict: false, parameters }],
  });
  expect(response.output.filter(({ type }) => type === "function_call")).toMatchObject([
    { arguments: '{"city":"Oslo"}' },
    { arguments: '{"city":"Rome"}' },
  ]);
});
