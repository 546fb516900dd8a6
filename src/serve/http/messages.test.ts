import { afterAll, expect, test } from "bun:test";
import Anthropic from "@anthropic-ai/sdk";
import { unexpected } from "../../core/error.ts";
import { parseApiKeys } from "./security.ts";
import { type TestServer, testServer, until } from "./testing/client.ts";
import { call, harmonyModel, scriptedModel, speech } from "./testing/scripted.ts";

const path = "/v1/messages";
const weather = {
  name: "weather",
  description: "Tells the weather",
  input_schema: { type: "object" as const, properties: { city: { type: "string" } }, required: ["city"] },
};
const hi = { max_tokens: 500, messages: [{ role: "user" as const, content: "hi" }] };
const model = "Test-Model.gguf";

const servers: TestServer[] = [];
afterAll(() => Promise.all(servers.map((server) => server.stop({ force: true }))));

async function client(served: ReturnType<typeof harmonyModel>): Promise<Anthropic> {
  const server = await testServer(served);
  servers.push(server);
  return new Anthropic({ baseURL: server.url, apiKey: "none", maxRetries: 0 });
}

const promptOf = (served: ReturnType<typeof harmonyModel>): string =>
  served.tokenizer.decode(served.engine.requests.at(-1)!.prompt, { special: true });

test("a whole answer; thinking is shown when asked for", async () => {
  const anthropic = await client(harmonyModel(speech("Hello.")));
  const plain = await anthropic.messages.create({ ...hi, model });
  expect(plain).toMatchObject({
    type: "message",
    role: "assistant",
    model,
    content: [{ type: "text", text: "Hello." }],
    stop_reason: "end_turn",
    stop_sequence: null,
    usage: { cache_read_input_tokens: 4, cache_creation_input_tokens: 0 },
  });
  const counted = await anthropic.messages.countTokens({ messages: hi.messages, model });
  expect(plain.usage.input_tokens + 4).toBe(counted.input_tokens);
  const thinking = { type: "enabled" as const, budget_tokens: 1024 };
  const thought = await anthropic.messages.create({ ...hi, max_tokens: 2000, model, thinking });
  expect(thought.content.map(({ type }) => type)).toEqual(["thinking", "text"]);
  expect(thought.content[0]).toMatchObject({ thinking: "hm", signature: expect.stringMatching(/./) });
});

test("a stream: events in order, put together by the client", async () => {
  const anthropic = await client(harmonyModel(speech("Yo")));
  const thinking = { type: "enabled" as const, budget_tokens: 1024 };
  const stream = anthropic.messages.stream({ ...hi, max_tokens: 2000, model, thinking });
  const types: string[] = [];
  stream.on("streamEvent", ({ type }) => types.push(type));
  const message = await stream.finalMessage();
  expect(types).toEqual([
    ...["message_start", "content_block_start", "content_block_delta", "content_block_delta"],
    // the last delta of a thinking block is its signature
    ...["content_block_delta", "content_block_stop", "content_block_start", "content_block_delta"],
    ...["content_block_delta", "content_block_stop", "message_delta", "message_stop"],
  ]);
  expect(message.content).toMatchObject([
    { type: "thinking", thinking: "hm" },
    { type: "text", text: "Yo" },
  ]);
  expect(message.stop_reason).toBe("end_turn");
  expect(message.usage.output_tokens).toBeGreaterThan(2);
  expect(message.usage.cache_read_input_tokens).toBe(4);
});

test("a tool loop, streamed and whole", async () => {
  const served = harmonyModel({ answers: [call("weather", '{"city":"Paris"}')], later: [speech("Sunny.")] });
  const anthropic = await client(served);
  const tools = [weather, { type: "web_search_20250305" as const, name: "web_search" as const }];
  const question = { role: "user" as const, content: "Paris?" };
  const thinking = { type: "adaptive" as const };
  const stream = anthropic.messages.stream({ max_tokens: 100, model, tools, messages: [question], thinking });
  const asked = await stream.finalMessage();
  const { headers } = (await stream.withResponse()).response;
  expect(headers.get("x-psionic-ignored")).toContain("tools.web_search_20250305");
  expect(asked.stop_reason).toBe("tool_use");
  const use = asked.content[1];
  expect(use).toMatchObject({ type: "tool_use", name: "weather", input: { city: "Paris" } });
  if (use?.type !== "tool_use") throw new Error("no call came");
  const result = {
    type: "tool_result" as const,
    tool_use_id: use.id,
    content: [{ type: "text" as const, text: "18C" }],
  };
  const answer = await anthropic.messages.create({
    max_tokens: 100,
    model,
    tools,
    system: [{ type: "text", text: "Be brief." }],
    messages: [
      question,
      { role: "assistant", content: asked.content },
      { role: "user", content: [result, { type: "text", text: "So?" }] },
    ],
  });
  expect(answer.content).toMatchObject([{ type: "text", text: "Sunny." }]);
  expect(promptOf(served)).toContain(
    "<|channel|>analysis<|message|>hm<|end|>" +
      "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>" +
      '{"city":"Paris"}<|call|><|start|>functions.weather to=assistant<|channel|>commentary<|message|>18C<|end|>' +
      "<|start|>user<|message|>So?<|end|>",
  );
  expect(promptOf(served)).toContain("Be brief.");
});

test("blocks in a tool's result that nobody here reads are left out and named", async () => {
  const served = harmonyModel(speech("Ok."));
  await using server = await testServer(served);
  const response = await server.post("/v1/messages", {
    max_tokens: 20,
    messages: [
      { role: "user", content: "hi" },
      { role: "assistant", content: [{ type: "tool_use", id: "t", name: "f", input: {} }] },
      {
        role: "user",
        content: [
          {
            type: "tool_result",
            tool_use_id: "t",
            content: [
              { type: "tool_reference", tool_name: "x" },
              { type: "text", text: "18C" },
            ],
          },
        ],
      },
    ],
  });
  expect([response.status, response.headers.get("x-psionic-ignored")]).toEqual([
    200,
    "messages.content.content.tool_reference",
  ]);
  expect(promptOf(served)).toContain("<|message|>18C<|end|>");
});

test("thinking that is not shown comes back to the model in the signature", async () => {
  const served = harmonyModel({ answers: [call("weather", "{}", "look")], later: [speech("Ok.")] });
  const anthropic = await client(served);
  const thinking = { type: "adaptive" as const, display: "omitted" as const };
  const stream = anthropic.messages.stream({ ...hi, model, tools: [weather], thinking });
  const asked = await stream.finalMessage();
  expect(asked.content[0]).toMatchObject({ type: "thinking", thinking: "" });
  const use = asked.content[1];
  if (use?.type !== "tool_use") throw new Error("no call came");
  const result = { type: "tool_result" as const, tool_use_id: use.id, content: "18C" };
  const { messages } = hi;
  await anthropic.messages.create({
    ...{ max_tokens: 100, model, tools: [weather], thinking },
    messages: [
      ...messages,
      { role: "assistant", content: asked.content },
      { role: "user", content: [result] },
    ],
  });
  expect(promptOf(served)).toContain("<|channel|>analysis<|message|>look<|end|>");
});

test("stop reasons", async () => {
  const anthropic = await client(harmonyModel(speech("one two three")));
  const ask = (more: object) => anthropic.messages.create({ ...hi, model, ...more });
  expect(await ask({ stop_sequences: [" two"] })).toMatchObject({
    stop_reason: "stop_sequence",
    stop_sequence: " two",
    content: [{ text: "one" }],
  });
  expect((await ask({ max_tokens: 8 })).stop_reason).toBe("max_tokens");
  const small = harmonyModel({ answers: [speech("x".repeat(400))], contextLength: 300 });
  const full = await (await client(small)).messages.create({ ...hi, model, max_tokens: 4000 });
  expect(full.stop_reason).toBe("model_context_window_exceeded");
});

test("thinking turned off; a call that is forced; arguments that are no JSON", async () => {
  const served = harmonyModel({
    answers: ["Hello.<|return|>"],
    later: ['{"city":"Rome"}<|call|>', "Rome<|call|>"],
  });
  const anthropic = await client(served);
  const off = await anthropic.messages.create({ ...hi, model, thinking: { type: "disabled" } });
  expect(promptOf(served)).toEndWith("<|channel|>final<|message|>");
  expect(off.content).toMatchObject([{ type: "text", text: "Hello." }]);
  const forced = { ...hi, model, tools: [weather], tool_choice: { type: "any" as const } };
  expect((await anthropic.messages.create(forced)).content).toMatchObject([{ input: { city: "Rome" } }]);
  const bad = await anthropic.messages.create(forced);
  expect(bad).toMatchObject({ stop_reason: "tool_use", content: [{ input: { raw_arguments: "Rome" } }] });
});

test("errors have Anthropic's shape, before and inside a stream", async () => {
  const apiKeys = parseApiKeys("secret-key");
  const error = unexpected("native_failed", "step", "0", "7 at hidden");
  const served = harmonyModel({ answers: [speech("abc")], failAt: { token: 30, error } });
  await using server = await testServer(served, { apiKeys });
  const post = async (body: object, headers = {}) => {
    const response = await server.post(path, body, { headers });
    return { status: response.status, id: response.headers.get("request-id"), text: await response.text() };
  };
  const refused = await post(hi);
  expect(JSON.parse(refused.text)).toEqual({
    type: "error",
    error: { type: "authentication_error", message: expect.any(String) },
    request_id: refused.id,
  });
  const key = { "x-api-key": "secret-key", "anthropic-version": "2023-06-01" };
  const wrong = await post({ ...hi, max_tokens: 0 }, key);
  expect(wrong.status).toBe(400);
  expect(JSON.parse(wrong.text).error).toMatchObject({ type: "invalid_request_error" });
  expect(JSON.parse(wrong.text).error.message).toContain("[max_tokens]");
  const broken = await post({ ...hi, stream: true }, key);
  const last = broken.text.trim().split("\n\n").at(-1)!;
  expect(last).toStartWith("event: error\ndata: ");
  expect(JSON.parse(last.split("data: ")[1]!)).toMatchObject({ type: "error", error: { type: "api_error" } });
  expect(broken.text).not.toContain("hidden");
  const busy = unexpected("queue_full", "queue", "room", "none");
  const anthropic = await client(harmonyModel({ answers: ["x"], refuse: busy }));
  const failure = await anthropic.messages.create({ ...hi, model }).catch((thrown: unknown) => thrown);
  expect(failure).toMatchObject({ status: 503, type: "overloaded_error" });
});

test("a client that leaves frees the engine", async () => {
  const served = harmonyModel({ answers: [speech("word ".repeat(1500))], tokenMs: 2 });
  const anthropic = await client(served);
  for await (const _ of await anthropic.messages.create({ ...hi, model, stream: true })) break;
  await until(() => served.engine.cancelled === 1 && served.engine.running === 0);
});

const user = (content: unknown) => [{ role: "user", content }];
const wrong: readonly (readonly [string, unknown, string?])[] = [
  ["messages", undefined],
  ["messages", []],
  ["messages", [{ role: "robot", content: "x" }], "messages[0].role"],
  ["messages", user(5), "messages[0].content"],
  ["messages", user([{ text: "x" }]), "messages[0].content[0].type"],
  ["messages", user([{ type: "image", source: {} }]), "messages[0].content[0]"],
  [
    "messages",
    user([{ type: "tool_result", tool_use_id: "t", content: "x" }]),
    "messages[0].content[0].tool_use_id",
  ],
  ["messages", user([{ type: "tool_use", id: "t", name: "f", input: {} }]), "messages[0].content[0].type"],
  ["messages", [...user("x"), { role: "assistant", content: "y" }], "messages[1].role"],
  ["max_tokens", undefined],
  ["max_tokens", -1],
  ["stop_sequences", "x"],
  ["system", 7],
  ["tools", [{ input_schema: {} }], "tools[0].name"],
  ["tool_choice", { type: "tool", name: "f" }],
  ["tool_choice", { type: "tool" }, "tool_choice.name"],
  ["mcp_servers", [{ url: "x" }]],
  ["output_config", { format: { type: "json_schema" } }, "output_config.format.schema"],
  ["model", "claude-x"],
];

test("what is wrong or not implemented is a 400 that names it", async () => {
  const served = scriptedModel("x");
  await using server = await testServer(served);
  for (const [field, value, param] of wrong) {
    const response = await server.post(path, { ...hi, [field]: value });
    const body = await response.text();
    expect(`${field} ${response.status} ${body}`).toStartWith(`${field} 400 {"type":"error"`);
    if (field !== "model") expect(JSON.parse(body).error.message).toStartWith(`[${param ?? field}]`);
  }
  expect(served.engine.requests).toHaveLength(0);
});
