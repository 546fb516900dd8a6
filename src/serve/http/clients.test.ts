import { afterAll, beforeAll, expect, test } from "bun:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import OpenAI from "openai";
import { type TestServer, testServer, until } from "./testing/client.ts";
import { scriptedModel } from "./testing/scripted.ts";

const model = scriptedModel({
  answers: ["<|think|>why<|answer|>The right website.", "Another."],
  tokenMs: 1,
  contextLength: 256,
});
let server: TestServer;
let openai: OpenAI;
let provider: ReturnType<typeof createOpenAICompatible>;

beforeAll(async () => {
  server = await testServer(model);
  openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
  provider = createOpenAICompatible({ name: "psionic", baseURL: `${server.url}/v1`, includeUsage: true });
});
afterAll(() => server.stop({ force: true }));

const messages = [{ role: "user" as const, content: "Why?" }];
const name = "Test-Model.gguf";

test("openai: model list, chat, n, stop, logprobs, usage", async () => {
  const list = await openai.models.list();
  expect(list.data.map(({ id }) => id)).toEqual([name]);
  expect((await openai.models.retrieve(name)).owned_by).toBe("psionic");
  const answer = await openai.chat.completions.create({
    model: name,
    messages,
    n: 2,
    stop: "website",
    logprobs: true,
  });
  expect(answer.choices.map(({ message }) => message.content)).toEqual(["The right ", "Another."]);
  expect(answer.choices[0]?.logprobs?.content?.map(({ token }) => token).join("")).toBe("The right ");
  expect(answer.usage?.total_tokens).toBe(
    (answer.usage?.prompt_tokens ?? 0) + (answer.usage?.completion_tokens ?? 0),
  );
});

test("openai: stream through its accumulator, with usage", async () => {
  const stream = openai.chat.completions.stream({
    model: name,
    messages,
    stream_options: { include_usage: true },
  });
  let text = "";
  stream.on("content", (delta) => {
    text += delta;
  });
  const final = await stream.finalChatCompletion();
  expect(text).toBe("The right website.");
  expect(final.choices[0]).toMatchObject({
    finish_reason: "stop",
    message: { role: "assistant", content: text },
  });
  expect((await stream.totalUsage()).completion_tokens).toBeGreaterThan(18);
});

test("openai: text completions", async () => {
  const answer = await openai.completions.create({ model: name, prompt: "x", max_tokens: 4, echo: true });
  expect(answer.choices[0]?.text).toBe("xwhy");
});

test("openai: errors carry status, code and param", async () => {
  const failure = (asked: PromiseLike<unknown>): Promise<unknown> =>
    Promise.resolve(asked).then(
      () => "an answer",
      (error: unknown) => error,
    );
  const { completions } = openai.chat;
  expect(await failure(completions.create({ model: name, messages, temperature: -1 }))).toMatchObject({
    status: 400,
    param: "temperature",
    type: "invalid_request_error",
  });
  const long = [{ role: "user" as const, content: "x".repeat(999) }];
  expect(await failure(completions.create({ model: name, messages: long, stream: true }))).toMatchObject({
    status: 400,
    code: "context_length_exceeded",
  });
  expect(await failure(openai.models.retrieve("gpt-4"))).toMatchObject({ status: 404 });
});

/** Says so much that it does not come to an end while a client leaves. */
const talker = () => scriptedModel({ answers: ["word ".repeat(1500)], tokenMs: 2, contextLength: 8192 });

test("openai: an aborted stream frees the engine", async () => {
  const long = talker();
  await using slow = await testServer(long);
  const client = new OpenAI({ baseURL: `${slow.url}/v1`, apiKey: "none", maxRetries: 0 });
  const stream = await client.chat.completions.create({ model: name, messages, stream: true });
  for await (const _ of stream) break;
  await until(() => long.engine.cancelled === 1 && long.engine.running === 0);
});

test("ai sdk: text, reasoning and usage", async () => {
  const answer = await generateText({ model: provider(name), prompt: "Why?" });
  expect(answer.text).toBe("The right website.");
  expect(answer.reasoningText).toBe("why");
  expect(answer.finishReason).toBe("stop");
  expect(answer.usage.outputTokens).toBeGreaterThan(18);
});

test("ai sdk: stream and usage", async () => {
  const result = streamText({ model: provider(name), prompt: "Why?" });
  let text = "";
  for await (const delta of result.textStream) text += delta;
  expect(text).toBe("The right website.");
  expect(await result.finishReason).toBe("stop");
  expect((await result.usage).inputTokens).toBeGreaterThan(4);
});

test("ai sdk: an abort frees the engine; an error has its message", async () => {
  const long = talker();
  await using slow = await testServer(long);
  const leave = new AbortController();
  const result = streamText({
    model: createOpenAICompatible({ name: "psionic", baseURL: `${slow.url}/v1` })(name),
    prompt: "Why?",
    abortSignal: leave.signal,
    onError: () => {},
  });
  for await (const _ of result.textStream) {
    leave.abort();
    break;
  }
  await until(() => long.engine.cancelled === 1 && long.engine.running === 0);
  const refused = generateText({ model: provider("gpt-4"), prompt: "x", maxRetries: 0 });
  await expect(refused).rejects.toThrow("is not loaded");
});
