import { afterAll, expect, test } from "bun:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";
import { type TestServer, testServer, until } from "./testing/client.ts";
import { call, harmonyModel, speech } from "./testing/scripted.ts";

const model = "Test-Model.gguf";
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const weather = { type: "function", name: "weather", description: null, strict: false, parameters } as const;

const servers: TestServer[] = [];
afterAll(() => Promise.all(servers.map((server) => server.stop({ force: true }))));

async function openaiFor(served: ReturnType<typeof harmonyModel>): Promise<OpenAI> {
  const server = await testServer(served);
  servers.push(server);
  return new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
}

test("openai responses: whole, kept, listed, deleted", async () => {
  const openai = await openaiFor(harmonyModel(speech("Hello.")));
  const response = await openai.responses.create({ model, input: "hi" });
  expect(response.output_text).toBe("Hello.");
  expect(response.usage?.output_tokens_details.reasoning_tokens).toBe(2);
  expect((await openai.responses.retrieve(response.id)).output_text).toBe("Hello.");
  const items = [];
  for await (const item of openai.responses.inputItems.list(response.id)) items.push(item);
  expect(items).toMatchObject([{ role: "user", content: [{ type: "input_text", text: "hi" }] }]);
  expect((await openai.responses.inputTokens.count({ model, input: "hi" })).input_tokens).toBe(
    response.usage!.input_tokens,
  );
  await openai.responses.delete(response.id);
  await expect(openai.responses.retrieve(response.id).then(() => "kept")).rejects.toThrow("404");
});

test("openai responses: a stream through its accumulator, and a tool loop", async () => {
  const served = harmonyModel({ answers: [call("weather", '{"city":"Oslo"}')], later: [speech("Snow.")] });
  const openai = await openaiFor(served);
  const stream = openai.responses.stream({ model, input: "Oslo?", tools: [weather] });
  let args = "";
  stream.on("response.function_call_arguments.delta", ({ delta }) => {
    args += delta;
  });
  const first = await stream.finalResponse();
  expect(args).toBe('{"city":"Oslo"}');
  const asked = first.output.find(({ type }) => type === "function_call");
  expect(asked).toMatchObject({ name: "weather", arguments: args });
  if (asked?.type !== "function_call") throw new Error("no call came");
  const second = openai.responses.stream({
    model,
    previous_response_id: first.id,
    input: [{ type: "function_call_output", call_id: asked.call_id, output: "-3C" }],
    tools: [weather],
  });
  let text = "";
  second.on("response.output_text.delta", ({ delta }) => {
    text += delta;
  });
  expect((await second.finalResponse()).output_text).toBe("Snow.");
  expect(text).toBe("Snow.");
});

test("openai responses: cancel, and leaving", async () => {
  const served = harmonyModel({ answers: [speech("word ".repeat(1500))], tokenMs: 2 });
  const openai = await openaiFor(served);
  const stream = await openai.responses.create({ model, input: "hi", stream: true });
  let status: unknown;
  for await (const event of stream) {
    if (event.type === "response.created") await openai.responses.cancel(event.response.id);
    if (event.type === "response.incomplete") status = event.response.status;
  }
  expect(status).toBe("cancelled");
  await until(() => served.engine.running === 0);
  for await (const _ of await openai.responses.create({ model, input: "hi", stream: true })) break;
  await until(() => served.engine.running === 0 && served.engine.cancelled === 2);
});

test("openai chat: a tool call whole, streamed, forced and refused", async () => {
  const said = call("weather", '{"city":"Rome"}');
  const served = harmonyModel({ answers: [said], later: [said, '{"city":"Bern"}<|call|>', speech("Ok.")] });
  const openai = await openaiFor(served);
  const messages = [{ role: "user" as const, content: "Rome?" }];
  const tools = [{ type: "function" as const, function: { name: "weather", parameters } }];
  const whole = await openai.chat.completions.create({ model, messages, tools });
  expect(whole.choices[0]).toMatchObject({
    finish_reason: "tool_calls",
    message: {
      content: null,
      tool_calls: [
        {
          id: `${whole.id}-tool-0`,
          type: "function",
          function: { name: "weather", arguments: '{"city":"Rome"}' },
        },
      ],
    },
  });
  const stream = openai.chat.completions.stream({ model, messages, tools });
  const final = await stream.finalChatCompletion();
  expect(final.choices[0]?.message.tool_calls?.[0]).toMatchObject({
    function: { arguments: '{"city":"Rome"}' },
  });
  const choice = { type: "function" as const, function: { name: "weather" } };
  const forced = await openai.chat.completions.create({ model, messages, tools, tool_choice: choice });
  expect(forced.choices[0]?.message.tool_calls).toMatchObject([
    { function: { arguments: '{"city":"Bern"}' } },
  ]);
  const none = await openai.chat.completions.create({ model, messages, tools, tool_choice: "none" });
  expect(none.choices[0]?.message.content).toBe("Ok.");
  const prompt = served.tokenizer.decode(served.engine.requests.at(-1)!.prompt, { special: true });
  expect(prompt).not.toContain("namespace functions");
});

test("ai sdk: a tool is called, its result goes back, the text comes", async () => {
  const served = harmonyModel({ answers: [call("weather", '{"city":"Lima"}')], later: [speech("Fog.")] });
  const server = await testServer(served);
  servers.push(server);
  const provider = createOpenAICompatible({
    name: "psionic",
    baseURL: `${server.url}/v1`,
    includeUsage: true,
  });
  const cities: string[] = [];
  const result = streamText({
    model: provider(model),
    prompt: "Lima?",
    tools: {
      weather: tool({
        inputSchema: jsonSchema<{ city: string }>(parameters as Parameters<typeof jsonSchema>[0] & object),
        execute: async ({ city }) => {
          cities.push(city);
          return "fog";
        },
      }),
    },
    stopWhen: ({ steps }) => steps.length === 2,
  });
  let text = "";
  for await (const delta of result.textStream) text += delta;
  expect(cities).toEqual(["Lima"]);
  expect(text).toBe("Fog.");
});

test("the model list serves OpenAI's, Codex's and Anthropic's clients at once", async () => {
  await using server = await testServer(harmonyModel("x"));
  const list = await (await server.get("/v1/models?client_version=0.99.0")).json();
  expect(list.data[0]).toMatchObject({
    id: model,
    type: "model",
    display_name: "Test Model",
    capabilities: ["completion", "chat", "reasoning", "tools", "embedding"],
    psionic_supported_endpoints: [
      ...["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"],
    ],
    psionic_tool_calling: { parser: "gpt_oss_harmony" },
  });
  expect(list).toMatchObject({ object: "list", first_id: model, has_more: false });
  expect(list.models).toHaveLength(1);
  expect(list.models[0]).toMatchObject({
    slug: model,
    shell_type: "shell_command",
    visibility: "list",
    supported_in_api: true,
    context_window: 8192,
    truncation_policy: { mode: "tokens", limit: 2048 },
    supported_reasoning_levels: [{ effort: "low" }, { effort: "medium" }, { effort: "high" }],
  });
  expect(list.models[0].base_instructions).not.toBe("");
});

test("management: the status, and events as requests are taken in", async () => {
  await using server = await testServer(harmonyModel(speech("Hi.")));
  const before = await (await server.get("/psionic/management/status")).json();
  expect(before).toMatchObject({
    namespace: "psionic_management",
    join_state: { posture: "standalone" },
    routes: [{ worker_id: "local_cpu_0", backend: "cpu", fallback_policy: "refuse" }],
    last_route_execution: null,
    status: "loaded",
    engine: { active: 0, pages_total: 8 },
  });
  const watched = await server.get("/psionic/management/events");
  const reader = watched.body!.getReader();
  const next = async () => new TextDecoder().decode((await reader.read()).value);
  const first = await next();
  expect(first).toStartWith("id: 1\nevent: topology_snapshot\ndata: ");
  expect(JSON.parse(first.split("data: ")[1]!)).toMatchObject({
    event_id: 1,
    topology_digest: before.topology_digest,
    payload: { kind: "topology_snapshot" },
  });
  await (await server.post("/v1/responses", { input: "hi" })).text();
  const second = await next();
  expect(second).toStartWith("id: 2\nevent: route_selection\ndata: ");
  expect(second).toContain("/v1/responses");
  const after = await (await server.get("/psionic/management/status")).json();
  expect(after.last_route_execution).toMatchObject({ route: "/v1/responses" });
  // a server that stops does not wait for those who watch
  await server.stop();
  expect((await reader.read()).done).toBe(true);
});
