import { expect, test } from "bun:test";
import { unexpected } from "../../core/error.ts";
import { parseApiKeys } from "./security.ts";
import { sseData, testServer, until } from "./testing/client.ts";
import { call, harmonyModel, scriptedModel, speech } from "./testing/scripted.ts";

const path = "/v1/responses";
const weather = {
  type: "function",
  name: "weather",
  description: "Tells the weather",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

type Event = Awaited<ReturnType<Response["json"]>>;

function eventsOf(text: string): Event[] {
  return text
    .split("\n\n")
    .filter((block) => block.startsWith("event: "))
    .map((block) => {
      const [name, data] = block.split("\n");
      const event = JSON.parse(data!.replace(/^data: /, ""));
      expect(name).toBe(`event: ${event.type}`);
      return event;
    });
}

const promptOf = (model: ReturnType<typeof harmonyModel>, request = -1): string =>
  model.tokenizer.decode(model.engine.requests.at(request)!.prompt, { special: true });

test("a whole answer: reasoning, message, usage, what was asked", async () => {
  await using server = await testServer(harmonyModel(speech("Hello.")));
  const response = await server.post(path, { input: "hi", instructions: "Be brief.", metadata: { a: "b" } });
  expect(response.status).toBe(200);
  const body = await response.json();
  expect(body.id).toMatch(/^psionic-resp-/);
  expect(body).toMatchObject({
    object: "response",
    status: "completed",
    error: null,
    incomplete_details: null,
    instructions: "Be brief.",
    model: "Test-Model.gguf",
    metadata: { a: "b" },
    store: true,
    reasoning: { effort: "low" },
    output: [
      {
        id: `${body.id}-rs-0`,
        type: "reasoning",
        content: [{ type: "reasoning_text", text: "hm" }],
        summary: [],
      },
      {
        id: `${body.id}-msg-0`,
        type: "message",
        role: "assistant",
        status: "completed",
        content: [{ type: "output_text", text: "Hello.", annotations: [] }],
      },
    ],
    output_text: "Hello.",
    usage: { input_tokens_details: { cached_tokens: 4 }, output_tokens_details: { reasoning_tokens: 2 } },
    psionic_response_state: { storage: "memory_only", stored: true, input_messages_appended: 1 },
  });
  expect(body.usage.total_tokens).toBe(body.usage.input_tokens + body.usage.output_tokens);
  expect(response.headers.get("x-psionic-backend")).toBe("cpu");
});

test("a stream: every event in order, numbered, and the same answer at its end", async () => {
  await using server = await testServer(harmonyModel(speech("Yo")));
  const response = await server.post(path, { input: "hi", stream: true });
  const text = await response.text();
  expect(text).not.toContain("[DONE]");
  const events = eventsOf(text);
  expect(events.map(({ sequence_number }) => sequence_number)).toEqual(events.map((_, i) => i));
  expect(events.map(({ type }) => type.replace("response.", ""))).toEqual([
    "created",
    "in_progress",
    "output_item.added",
    "content_part.added",
    "reasoning_text.delta",
    "reasoning_text.delta",
    "reasoning_text.done",
    "content_part.done",
    "output_item.done",
    "output_item.added",
    "content_part.added",
    "output_text.delta",
    "output_text.delta",
    "output_text.done",
    "content_part.done",
    "output_item.done",
    "completed",
  ]);
  expect(events[2]).toMatchObject({ output_index: 0, item: { type: "reasoning", status: "in_progress" } });
  expect(events[11]).toMatchObject({ output_index: 1, content_index: 0, delta: "Y", logprobs: [] });
  const { response: end } = events.at(-1)!;
  expect(end.output[1].content[0].text).toBe("Yo");
  expect(end.usage.total_tokens).toBeGreaterThan(0);
  const kept = await (await server.get(`${path}/${end.id}`)).json();
  expect(kept).toEqual(end);
});

test("a function call, its output, and the answer, in one conversation kept here", async () => {
  const model = harmonyModel({ answers: [call("weather", '{"city":"Paris"}')], later: [speech("Sunny.")] });
  await using server = await testServer(model);
  const events = eventsOf(
    await (await server.post(path, { input: "Paris?", tools: [weather], stream: true })).text(),
  );
  const done = events.find(
    ({ type, item }) => type === "response.output_item.done" && item.type === "function_call",
  );
  const first = events.at(-1)!.response;
  expect(done!.item).toEqual({
    id: `${first.id}-fc-0`,
    type: "function_call",
    status: "completed",
    call_id: `${first.id}-tool-0`,
    name: "weather",
    arguments: '{"city":"Paris"}',
  });
  const args = events.filter(({ type }) => type === "response.function_call_arguments.delta");
  expect(args.map(({ delta }) => delta).join("")).toBe('{"city":"Paris"}');
  expect(events.find(({ type }) => type === "response.function_call_arguments.done")).toMatchObject({
    name: "weather",
    arguments: '{"city":"Paris"}',
  });
  expect(promptOf(model)).toContain("type weather = (_:");
  const second = await (
    await server.post(path, {
      previous_response_id: first.id,
      input: [{ type: "function_call_output", call_id: done!.item.call_id, output: "18C" }],
      tools: [weather],
    })
  ).json();
  expect(second).toMatchObject({ previous_response_id: first.id, output_text: "Sunny." });
  // inside a tool loop the model gets its own reasoning back
  expect(promptOf(model)).toContain(
    "<|start|>user<|message|>Paris?<|end|><|start|>assistant<|channel|>analysis<|message|>hm<|end|>" +
      "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>" +
      '{"city":"Paris"}<|call|><|start|>functions.weather to=assistant<|channel|>commentary<|message|>18C<|end|>',
  );
  const third = await server.post(path, { conversation: second.conversation.id, input: "And now?" });
  expect((await third.json()).previous_response_id).toBe(second.id);
  expect(promptOf(model)).toContain("Sunny.<|end|><|start|>user<|message|>And now?");
});

test("what an agent sends without state: items, sealed reasoning, tool types of other servers", async () => {
  const model = harmonyModel({
    answers: [call("shell", '{"command":"ls"}', "look")],
    later: [speech("Done.")],
  });
  await using server = await testServer(model);
  const request = {
    model: "Test-Model",
    instructions: "You are an agent.",
    tools: [
      { type: "function", name: "shell", parameters: { type: "object", properties: {} }, strict: false },
      { type: "custom", name: "apply_patch", format: { type: "grammar" } },
      { type: "web_search" },
    ],
    tool_choice: "auto",
    parallel_tool_calls: false,
    reasoning: { effort: "xhigh", summary: "auto" },
    store: false,
    stream: true,
    include: ["reasoning.encrypted_content"],
    prompt_cache_key: "k",
    client_metadata: { a: "b" },
  };
  const user = { type: "message", role: "user", content: [{ type: "input_text", text: "list" }] };
  const response = await server.post(path, { ...request, input: [user] });
  expect(response.status).toBe(200);
  expect(response.headers.get("x-psionic-ignored")).toBe("reasoning.summary, tools.custom, tools.web_search");
  const { response: end } = eventsOf(await response.text()).at(-1)!;
  expect(end.reasoning.effort).toBe("high");
  expect((await server.get(`${path}/${end.id}`)).status).toBe(404);
  const [reasoning, called] = end.output;
  // agents drop the plain text and send the sealed one
  const sealed = { type: "reasoning", summary: [], encrypted_content: reasoning.encrypted_content };
  const output = { type: "function_call_output", call_id: called.call_id, output: "a.txt" };
  const web = { type: "web_search_call", id: "ws_1", status: "completed" };
  const next = await server.post(path, { ...request, input: [user, web, sealed, called, output] });
  expect(next.headers.get("x-psionic-ignored")).toContain("input.web_search_call");
  await next.text();
  expect(promptOf(model)).toContain("<|channel|>analysis<|message|>look<|end|>");
  expect(promptOf(model)).toContain(
    'to=functions.shell <|constrain|>json<|message|>{"command":"ls"}<|call|>',
  );
});

test("tools of a group are called by group and name", async () => {
  const model = harmonyModel({ answers: [call("mcp__files_read", "{}")], later: [speech("Ok.")] });
  await using server = await testServer(model);
  const tools = [
    { type: "namespace", name: "mcp__files", tools: [{ type: "function", name: "read" }, { type: "x" }] },
  ];
  const response = await server.post(path, { input: "read", tools, store: false });
  expect(response.headers.get("x-psionic-ignored")).toBe("tools.x");
  const [, called] = (await response.json()).output;
  expect(called).toMatchObject({ type: "function_call", namespace: "mcp__files", name: "read" });
  const output = { type: "function_call_output", call_id: called.call_id, output: "text" };
  await server.post(path, { input: [{ role: "user", content: "read" }, called, output], tools });
  expect(promptOf(model)).toContain("to=functions.mcp__files_read <|constrain|>json<|message|>{}<|call|>");
  expect(promptOf(model)).toContain("<|start|>functions.mcp__files_read to=assistant");
});

test("answers are kept, listed, deleted, and are nobody else's", async () => {
  const apiKeys = parseApiKeys("first-key\nsecond-key");
  await using server = await testServer(harmonyModel(speech("Hi.")), { apiKeys });
  const as = (key: string) => ({ headers: { authorization: `Bearer ${key}` } });
  const { id } = await (await server.post(path, { input: "hi" }, as("first-key"))).json();
  const get = (key: string, rest = "") => server.get(`${path}/${id}${rest}`, as(key).headers);
  expect((await get("first-key")).status).toBe(200);
  expect((await get("second-key")).status).toBe(404);
  const foreign = await server.post(path, { previous_response_id: id, input: "x" }, as("second-key"));
  expect(foreign.status).toBe(400);
  expect((await foreign.json()).error).toMatchObject({
    code: "previous_response_not_found",
    param: "previous_response_id",
  });
  const list = await (await get("first-key", "/input_items")).json();
  expect(list).toMatchObject({ object: "list", data: [{ id: `${id}-in-0`, role: "user" }], has_more: false });
  // clients take the text from the parts, however it was sent
  expect(list.data[0]).toMatchObject({ type: "message", content: [{ type: "input_text" }] });
  const reference = await server.post(
    path,
    {
      input: [
        { type: "item_reference", id: `${id}-msg-0` },
        { role: "user", content: "?" },
      ],
    },
    as("first-key"),
  );
  expect(reference.status).toBe(200);
  const remove = (key: string) => fetch(`${server.url}${path}/${id}`, { method: "DELETE", ...as(key) });
  expect((await remove("second-key")).status).toBe(404);
  expect(await (await remove("first-key")).json()).toEqual({ id, object: "response", deleted: true });
  expect((await get("first-key")).status).toBe(404);
});

test("instructions hold for a conversation; changed ones are refused", async () => {
  const model = harmonyModel(speech("Hi."));
  await using server = await testServer(model);
  const { id } = await (await server.post(path, { input: "hi", instructions: "A." })).json();
  const again = await server.post(path, { previous_response_id: id, input: "x" });
  expect((await again.json()).instructions).toBe("A.");
  expect(promptOf(model).split("A.").length).toBe(2);
  const changed = await server.post(path, { previous_response_id: id, input: "x", instructions: "B." });
  expect((await changed.json()).error.param).toBe("instructions");
});

test("cancelling ends a stream and a whole answer, and frees the engine", async () => {
  for (const stream of [true, false]) {
    const model = harmonyModel({ answers: [speech("word ".repeat(1500))], tokenMs: 2 });
    await using server = await testServer(model);
    const asked = server.post(path, { input: "hi", stream });
    await until(() => model.engine.running === 1);
    const { id } = await idOf(server);
    expect((await (await server.get(`${path}/${id}`)).json()).status).toBe("in_progress");
    const removed = await fetch(`${server.url}${path}/${id}`, { method: "DELETE" });
    expect([removed.status, (await removed.json()).error.code]).toEqual([409, "response_in_progress"]);
    const cancelled = await server.post(`${path}/${id}/cancel`, "{}");
    expect(await cancelled.json()).toMatchObject({ id, status: "cancelled" });
    const response = await asked;
    expect(response.status).toBe(200);
    const text = await response.text();
    const end = stream ? eventsOf(text).at(-1)!.response : JSON.parse(text);
    expect(end.status).toBe("cancelled");
    await until(() => model.engine.running === 0);
    expect((await (await server.get(`${path}/${id}`)).json()).status).toBe("cancelled");
    expect((await (await server.post(`${path}/${id}/cancel`, "{}")).json()).status).toBe("cancelled");
  }
});

/** The id of the only answer there is so far: ids count up from the server's start. */
async function idOf(server: Awaited<ReturnType<typeof testServer>>): Promise<{ id: string }> {
  const { headers } = await server.get("/health");
  const prefix = headers.get("x-request-id")!.replace("psionic-req-", "").replace(/-\d+$/, "");
  return { id: `psionic-resp-${prefix}-2` };
}

test("a client that leaves frees the engine and leaves nothing running", async () => {
  const model = harmonyModel({ answers: [speech("word ".repeat(1500))], tokenMs: 2 });
  await using server = await testServer(model);
  const leave = new AbortController();
  const response = await server.post(path, { input: "hi", stream: true }, { signal: leave.signal });
  await response.body!.getReader().read();
  const { id } = await idOf(server);
  leave.abort();
  await until(() => model.engine.running === 0 && model.engine.cancelled === 1);
  expect((await server.get(`${path}/${id}`)).status).toBe(404);
});

test("failures: in the stream with the codes agents know, else with a status", async () => {
  const long = { input: "x".repeat(600), stream: true };
  {
    await using server = await testServer(scriptedModel("x"));
    const events = eventsOf(await (await server.post(path, long)).text());
    expect(events.map(({ type }) => type)).toEqual([
      "response.created",
      "response.in_progress",
      "response.failed",
    ]);
    expect(events[2]!.response).toMatchObject({
      status: "failed",
      error: { code: "context_length_exceeded" },
    });
    const whole = await server.post(path, { ...long, stream: false });
    expect(whole.status).toBe(400);
    expect((await whole.json()).error).toMatchObject({ code: "context_length_exceeded", param: "input" });
  }
  {
    const error = unexpected("native_failed", "step", "0", "7 at secret");
    const model = harmonyModel({ answers: [speech("abc")], failAt: { token: 8, error } });
    await using server = await testServer(model);
    const text = await (await server.post(path, { input: "hi", stream: true })).text();
    const events = eventsOf(text);
    expect(events.at(-1)!.response.error.code).toBe("server_error");
    expect(text).not.toContain("secret");
    expect(sseData(text).length).toBe(events.length);
  }
  {
    const refuse = unexpected("queue_full", "queue", "room", "none");
    await using server = await testServer(harmonyModel({ answers: ["x"], refuse }));
    const full = await server.post(path, { input: "hi", stream: true });
    expect(full.status).toBe(503);
    expect(full.headers.get("retry-after")).toBe("1");
  }
});

test("a limit makes an answer incomplete", async () => {
  await using server = await testServer(harmonyModel(speech("Hello.")));
  const body = await (await server.post(path, { input: "hi", max_output_tokens: 4 })).json();
  expect(body).toMatchObject({ status: "incomplete", incomplete_details: { reason: "max_output_tokens" } });
});

test("reasoning can be turned off, and a call be forced", async () => {
  const model = harmonyModel({ answers: ["Hello.<|return|>"], later: ['{"city":"Rome"}<|call|>'] });
  await using server = await testServer(model);
  const body = await (await server.post(path, { input: "hi", reasoning: { effort: "none" } })).json();
  expect(promptOf(model)).toEndWith("<|start|>assistant<|channel|>final<|message|>");
  expect(body).toMatchObject({
    output: [{ type: "message" }],
    output_text: "Hello.",
    reasoning: { effort: "none" },
  });
  const choice = { type: "function", name: "weather" };
  const forced = await (
    await server.post(path, { input: "hi", tools: [weather], tool_choice: choice })
  ).json();
  expect(forced.output).toMatchObject([
    { type: "function_call", name: "weather", arguments: '{"city":"Rome"}' },
  ]);
});

test("some of the tools may be allowed, in the forms of both APIs", async () => {
  const model = harmonyModel({ later: ['{"city":"Rome"}<|call|>'], answers: ["Hello.<|return|>"] });
  await using server = await testServer(model);
  const other = { type: "function", name: "other" };
  const named = { type: "function", name: "weather" };
  const tools = [other, weather, { type: "web_search" }];
  const allowed = (mode: string, ...list: object[]) => ({ type: "allowed_tools", mode, tools: list });
  const ask = async (tool_choice: object) => {
    const response = await server.post(path, { input: "hi", tools, tool_choice });
    return { status: response.status, body: await response.json() };
  };
  const auto = await ask(allowed("auto", named, { type: "web_search" }));
  expect(auto.body).toMatchObject({ status: "completed", tool_choice: { type: "allowed_tools" } });
  expect(promptOf(model)).toContain("weather");
  expect(promptOf(model)).not.toContain("other");
  // a single one that must be called is called
  const forced = await ask(allowed("required", named));
  expect(forced.body.output).toMatchObject([{ type: "function_call", name: "weather" }]);
  expect((await ask(allowed("auto"))).status).toBe(200);
  expect(promptOf(model)).not.toContain("weather");
  for (const [choice, param] of [
    [allowed("required"), "tool_choice"],
    [allowed("auto", { type: "function", name: "gone" }), "tool_choice"],
    [allowed("none", named), "tool_choice.mode"],
    [allowed("auto", { type: "function" }), "tool_choice.tools[0]"],
    [{ type: "allowed_tools", mode: "auto" }, "tool_choice.tools"],
  ] as const) {
    const { status, body } = await ask(choice);
    expect([status, body.error.param]).toEqual([400, param]);
  }
  const chat = await server.post("/v1/chat/completions", {
    messages: [{ role: "user", content: "hi" }],
    tools: [other, named].map(({ type, name }) => ({ type, function: { name } })),
    tool_choice: {
      type: "allowed_tools",
      allowed_tools: { mode: "auto", tools: [{ type: "function", function: { name: "weather" } }] },
    },
  });
  expect(chat.status).toBe(200);
  expect(promptOf(model)).not.toContain("other");
});

test("logprobs, token counts, truncated lists of fields", async () => {
  await using server = await testServer(harmonyModel(speech("Hi")));
  const body = await (
    await server.post(path, { input: "x", include: ["message.output_text.logprobs"], top_logprobs: 2 })
  ).json();
  expect(body.output[1].content[0].logprobs.map((entry: { token: string }) => entry.token)).toEqual([
    "H",
    "i",
  ]);
  const counted = await (await server.post(`${path}/input_tokens`, { input: "x" })).json();
  expect(counted).toEqual({ object: "response.input_tokens", input_tokens: body.usage.input_tokens });
});

const wrong: readonly (readonly [string, unknown, string?])[] = [
  ["input", undefined],
  ["input", 5],
  ["input", []],
  ["input", [5], "input[0]"],
  ["input", [{ role: "robot", content: "x" }], "input[0].role"],
  ["input", [{ role: "user", content: [{ type: "input_image", image_url: "x" }] }], "input[0].content[0]"],
  ["input", [{ type: "function_call_output", call_id: "c", output: "x" }], "input[0].call_id"],
  ["input", [{ type: "item_reference", id: "gone" }], "input[0].id"],
  ["previous_response_id", "gone"],
  ["conversation", "gone"],
  ["max_output_tokens", 0],
  ["background", true],
  ["prompt", { id: "p" }],
  ["text", { format: { type: "json_schema", name: "x", schema: { not: {} } } }, "text.format.schema#/not"],
  ["text", { verbosity: "low" }, "text.verbosity"],
  ["tools", [{ type: "function" }], "tools[0].name"],
  ["tools", [weather, weather], "tools[1].name"],
  ["tools", [7], "tools[0]"],
  ["tool_choice", "required"],
  ["tool_choice", "always"],
  ["metadata", { a: 1 }, "metadata.a"],
  ["reasoning", { effort: "huge" }, "reasoning.effort"],
  ["temperature", -1],
  [
    "psionic_response_state",
    { continuation: "continue_last_assistant" },
    "psionic_response_state.continuation",
  ],
];

test("what is wrong or not implemented is a 400 that names it", async () => {
  const model = harmonyModel("x");
  await using server = await testServer(model);
  for (const [field, value, param] of wrong) {
    const response = await server.post(path, { input: "hi", [field]: value });
    const body = await response.text();
    expect(`${field} ${response.status} ${body}`).toStartWith(`${field} 400 {"error":`);
    expect(JSON.parse(body).error.param).toBe(param ?? field);
  }
  expect(model.engine.requests).toHaveLength(0);
});
