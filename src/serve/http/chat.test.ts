import { expect, test } from "bun:test";
import { unexpected } from "../../core/error.ts";
import { sseData, testServer, until } from "./testing/client.ts";
import { harmonyModel, script, scriptedModel } from "./testing/scripted.ts";

const chat = "/v1/chat/completions";
const user = (content: unknown) => [{ role: "user", content }];

test("a whole answer: body, usage, truth and cache headers", async () => {
  await using server = await testServer(scriptedModel("<|think|>hm<|answer|>Hello."));
  const response = await server.post(chat, { model: "Test-Model", messages: user("hi"), user: "me" });
  const body = await response.json();
  expect(body).toMatchObject({
    object: "chat.completion",
    model: "Test-Model",
    choices: [
      {
        index: 0,
        message: { role: "assistant", content: "Hello.", reasoning_content: "hm", refusal: null },
        logprobs: null,
        finish_reason: "stop",
      },
    ],
    usage: {
      prompt_tokens: 8,
      completion_tokens: 11,
      total_tokens: 19,
      prompt_tokens_details: { cached_tokens: 4 },
      completion_tokens_details: { reasoning_tokens: 2 },
    },
  });
  expect(body.id).toMatch(/^psionic-chatcmpl-[0-9a-f]+-[0-9a-f]+-\d+$/);
  const header = (name: string) => response.headers.get(`x-psionic-${name}`);
  expect(header("backend")).toBe("cpu");
  expect(header("execution-engine")).toBe("psionic");
  expect(header("fallback-policy")).toBe("refuse");
  expect(header("prefix-cache-state")).toBe("hit");
  expect(header("prefix-cache-reused-tokens")).toBe("4");
  expect(Number(header("ttft-ns"))).toBeGreaterThan(0);
  expect(header("ignored")).toBeNull();
});

test("a stream: role first, deltas as they come, finish, usage, done", async () => {
  await using server = await testServer(scriptedModel("<|think|>a<|answer|>bé"));
  const response = await server.post(chat, {
    messages: user("hi"),
    stream: true,
    stream_options: { include_usage: true },
  });
  expect(response.headers.get("content-type")).toStartWith("text/event-stream");
  const data = sseData(await response.text());
  expect(data.at(-1)).toBe("[DONE]");
  const chunks = data.slice(0, -1).map((line) => JSON.parse(line));
  expect(new Set(chunks.map(({ id, object }) => `${id} ${object}`)).size).toBe(1);
  expect(chunks.map(({ choices }) => choices[0]?.delta ?? null)).toEqual([
    { role: "assistant", content: "" },
    { reasoning_content: "a" },
    { content: "b" },
    { content: "é" },
    {},
    null,
  ]);
  expect(chunks.map(({ choices }) => choices[0]?.finish_reason ?? null)).toEqual([
    null,
    null,
    null,
    null,
    "stop",
    null,
  ]);
  expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: 8, completion_tokens: 7 } });
});

test("tokens reach the client while the rest is generated, and leaving frees the engine", async () => {
  const model = scriptedModel({ answers: ["abcdefghij".repeat(700)], tokenMs: 5, contextLength: 8192 });
  await using server = await testServer(model);
  const leave = new AbortController();
  const response = await server.post(chat, { messages: user("hi"), stream: true }, { signal: leave.signal });
  const reader = response.body!.getReader();
  let text = "";
  while (!text.includes('"content":"c"')) text += new TextDecoder().decode((await reader.read()).value);
  expect(model.engine.running).toBe(1);
  leave.abort();
  await until(() => model.engine.running === 0);
  expect(model.engine.cancelled).toBe(1);
  await until(() => server.lines.length === 1);
  expect(server.lines[0]).toContain(" 499 ");
});

test("leaving frees the engine before the first token and without streaming", async () => {
  for (const stream of [true, false]) {
    const model = scriptedModel({ answers: ["abc"], prefillMs: 60_000 });
    await using server = await testServer(model);
    const leave = new AbortController();
    const asked = server.post(chat, { messages: user("hi"), stream }, { signal: leave.signal });
    asked.catch(() => {});
    await until(() => model.engine.running === 1);
    leave.abort();
    await until(() => model.engine.running === 0);
    expect(model.engine.cancelled).toBe(1);
  }
});

test("comments keep a stream alive during a long prefill; headers come before it ends", async () => {
  // a prefill that does not end while the test runs
  await using endless = await testServer(scriptedModel({ answers: ["x"], prefillMs: 600_000 }), {
    pingMs: 20,
  });
  const leave = new AbortController();
  const { body } = await endless.post(chat, { messages: user("hi"), stream: true }, { signal: leave.signal });
  let seen = "";
  for await (const part of body!) {
    seen += new TextDecoder().decode(part);
    if (seen.split(": ping\n\n").length > 3) break;
  }
  leave.abort();
  await using server = await testServer(scriptedModel({ answers: ["x"], prefillMs: 100 }), { pingMs: 20 });
  const text = await (await server.post(chat, { messages: user("hi"), stream: true })).text();
  expect(text).toEndWith("data: [DONE]\n\n");
});

test("an error in the middle of a stream is an event, and no [DONE] follows", async () => {
  const error = unexpected("native_failed", "step", "0", "7 at secret");
  await using server = await testServer(scriptedModel({ answers: ["abc"], failAt: { token: 2, error } }));
  const text = await (await server.post(chat, { messages: user("hi"), stream: true })).text();
  const data = sseData(text);
  expect(JSON.parse(data.at(-1)!)).toMatchObject({ error: { type: "server_error", code: "internal" } });
  expect(text).not.toContain("secret");
  expect(server.errors).toEqual([error]);
});

test("n choices, each with its own text", async () => {
  await using server = await testServer(scriptedModel({ answers: ["one", "twooo"] }));
  const whole = await (await server.post(chat, { messages: user("hi"), n: 2 })).json();
  expect(whole.choices.map((c: { message: { content: string } }) => c.message.content)).toEqual([
    "one",
    "twooo",
  ]);
  const text = await (await server.post(chat, { messages: user("hi"), n: 2, stream: true })).text();
  const texts = ["", ""];
  for (const line of sseData(text).slice(0, -1)) {
    const { index, delta } = JSON.parse(line).choices[0];
    texts[index] += delta.content ?? "";
  }
  expect(texts).toEqual(["one", "twooo"]);
});

test("logprobs of content only, with bytes and alternatives", async () => {
  await using server = await testServer(scriptedModel("<|think|>r<|answer|>aé"));
  const body = await (
    await server.post(chat, { messages: user("hi"), logprobs: true, top_logprobs: 2 })
  ).json();
  const { content } = body.choices[0].logprobs;
  expect(content.map((entry: { bytes: number[] }) => entry.bytes)).toEqual([[97], [195], [169]]);
  expect(content[0]).toEqual({
    token: "a",
    logprob: -0.5,
    bytes: [97],
    top_logprobs: [
      { token: "a", logprob: -0.5, bytes: [97] },
      { token: "b", logprob: -1.5, bytes: [98] },
    ],
  });
});

test("context overflow names both numbers", async () => {
  await using server = await testServer(scriptedModel({ answers: ["x"], contextLength: 32 }));
  for (const stream of [true, false]) {
    const response = await server.post(chat, { messages: user("y".repeat(100)), stream });
    expect(response.status).toBe(400);
    const { error } = await response.json();
    expect(error.code).toBe("context_length_exceeded");
    expect(error.message).toContain("32");
    expect(error.message).toContain("106");
  }
});

test("an answer that cannot fit is refused by the name that the request has for its length", async () => {
  await using server = await testServer(scriptedModel({ answers: ["x"], contextLength: 32 }));
  for (const [path, body, param] of [
    [chat, { messages: user("y"), max_tokens: 99 }, "max_tokens"],
    [chat, { messages: user("y"), max_completion_tokens: 99 }, "max_completion_tokens"],
    ["/v1/responses", { input: "y", max_output_tokens: 99 }, "max_output_tokens"],
    ["/v1/completions", { prompt: "y", max_tokens: 99 }, "max_tokens"],
    ["/v1/completions", { prompt: "y", n_predict: 99 }, "n_predict"],
  ] as const) {
    const { error } = await (await server.post(path, body)).json();
    expect([error.code, error.param]).toEqual(["context_length_exceeded", param]);
    expect(error.message).toContain(` and ${param} asks for 99 more. Shorten the prompt, lower ${param} or`);
  }
});

test("seeds have 64 bits, signed or not", async () => {
  const model = scriptedModel("x");
  await using server = await testServer(model);
  const seeds = [0, -1, -2, 2 ** 53 + 2, 2 ** 63, 2 ** 64 - 2048, -(2 ** 63)];
  for (const seed of seeds)
    expect((await server.post(chat, { messages: user("hi"), temperature: 1, seed })).status).toBe(200);
  // -1 asks for a random one
  expect(model.engine.requests.map(({ sampling }) => sampling.seed)).toEqual(
    seeds.map((seed) => (seed === -1 ? undefined : seed)),
  );
  const wrong = await server.post(chat, { messages: user("hi"), seed: -(2 ** 64) });
  expect([wrong.status, (await wrong.json()).error.param]).toEqual([400, "seed"]);
});

test("a text that cannot fit is refused before it is encoded; what only counts still does", async () => {
  const model = scriptedModel({ answers: ["x"], contextLength: 32 });
  const { tokenizer } = model;
  const encoded: number[] = [];
  const encode: typeof tokenizer.encode = (text, options) => {
    encoded.push(text.length);
    return tokenizer.encode(text, options);
  };
  await using server = await testServer({ ...model, tokenizer: { ...tokenizer, encode } });
  const long = "y".repeat(5000);
  const least = Math.floor(5000 / (4 * tokenizer.longestToken));
  const asked: readonly (readonly [path: string, body: object, param: string])[] = [
    [chat, { messages: user(long) }, "messages"],
    ["/v1/responses", { input: long }, "input"],
    ["/v1/completions", { prompt: ["y", long] }, "prompt"],
    ["/v1/embeddings", { input: ["y", long] }, "input"],
  ];
  for (const [path, body, param] of asked) {
    const response = await server.post(path, body);
    const { error } = await response.json();
    expect([path, response.status, error.code, error.param]).toEqual([
      path,
      400,
      "context_length_exceeded",
      param,
    ]);
    expect(error.message).toContain(`context is 32 tokens, but the prompt has at least ${least}.`);
  }
  expect(encoded.filter((length) => length > 1)).toEqual([]);
  const counted = await server.post("/v1/messages/count_tokens", { messages: user(long) });
  expect((await counted.json()).input_tokens).toBeGreaterThanOrEqual(5000);
  const stream = await (await server.post("/v1/responses", { input: long, stream: true })).text();
  expect(stream).toContain('"code":"context_length_exceeded"');
});

test("a limit under two names is one limit", async () => {
  await using server = await testServer(scriptedModel("x"));
  const asked = (limits: object) => server.post(chat, { messages: user("hi"), ...limits });
  expect((await asked({ max_tokens: 5, max_completion_tokens: 5 })).status).toBe(200);
  const two = await asked({ max_tokens: 5, max_completion_tokens: 6 });
  expect([two.status, (await two.json()).error.param]).toEqual([400, "max_tokens"]);
});

test("sampling fields reach the engine under its names; nothing asked for is greedy", async () => {
  const model = scriptedModel("x");
  await using server = await testServer(model);
  await server.post(chat, { messages: user("hi"), temperature: null });
  await server.post(chat, {
    messages: user("hi"),
    temperature: 0.5,
    top_k: 3,
    top_p: 0.5,
    min_p: 0.1,
    typical_p: 0.9,
    repeat_penalty: 1.1,
    repeat_last_n: 32,
    presence_penalty: 0.2,
    frequency_penalty: 0.3,
    dry_multiplier: 0.8,
    xtc_probability: 0.5,
    xtc_threshold: 0.2,
    logit_bias: { "65": -100 },
    seed: 7,
    max_completion_tokens: 5,
    stop: ["a", "b"],
    psionic_prefix_cache: { mode: "bypass", tenant_id: "t" },
  });
  expect(model.engine.requests[0]).toEqual({
    prompt: script("user:hi\n"),
    sampling: {},
    stopTokens: [256],
    choices: 1,
    client: "127.0.0.1",
    prefixCache: "auto",
  });
  expect(model.engine.requests[1]).toMatchObject({
    maxTokens: 5,
    prefixCache: "bypass",
    tenant: "t",
    sampling: {
      temperature: 0.5,
      topK: 3,
      topP: 0.5,
      minP: 0.1,
      typicalP: 0.9,
      repeatPenalty: 1.1,
      repeatLastN: 32,
      presencePenalty: 0.2,
      frequencyPenalty: 0.3,
      dryMultiplier: 0.8,
      drySequenceBreakers: [[10], [58], [34], [42]],
      xtcProbability: 0.5,
      xtcThreshold: 0.2,
      logitBias: [[65, -100]],
      seed: 7,
    },
  });
});

/** [field, value, param of the refusal] */
const wrong: [string, unknown, string?][] = [
  ["messages", []],
  ["messages", "hi"],
  ["messages", undefined],
  ["messages", [{ role: "robot", content: "x" }], "messages[0].role"],
  ["messages", [{ role: "user" }], "messages[0].content"],
  ["messages", [{ role: "user", content: null }], "messages[0].content"],
  ["messages", [{ role: "user", content: [{ type: "text" }] }], "messages[0].content[0].text"],
  ["messages", [{ role: "user", content: [{ type: "image_url" }] }], "messages[0].content[0]"],
  ["messages", [{ role: "user", content: [{ type: "input_audio" }] }], "messages[0].content[0]"],
  ["messages", [{ role: "tool", content: "x" }], "messages[0].tool_call_id"],
  ["messages", [{ role: "assistant", function_call: { name: "f" } }], "messages[0].function_call"],
  ["model", "gpt-4"],
  ["model", 7],
  ["stream", "yes"],
  ["n", 0],
  ["n", 1.5],
  ["n", 1e9],
  ["max_tokens", -2],
  ["max_tokens", 1e300],
  ["max_completion_tokens", "5"],
  ["temperature", -0.1],
  ["temperature", 1e9],
  ["top_p", 1.1],
  ["top_k", -2],
  ["min_p", -1],
  ["dry_allowed_length", -1],
  ["repeat_penalty", 0],
  ["seed", 1.5],
  ["seed", 1e30],
  ["stop", 5],
  ["stop", ["a", ""], "stop[1]"],
  ["stop", Array(17).fill("a")],
  ["top_logprobs", 3],
  ["top_logprobs", 21],
  ["logprobs", 2],
  ["logit_bias", { "99999": 1 }],
  ["logit_bias", { x: 1 }],
  ["logit_bias", { "5": "1" }],
  ["logit_bias", 5],
  ["reasoning_effort", "extreme"],
  ["psionic_prefix_cache", { mode: "never" }, "psionic_prefix_cache.mode"],
  ["psionic_prefix_cache", {}, "psionic_prefix_cache.mode"],
  ["psionic_reasoning", { parser: "other" }, "psionic_reasoning.parser"],
  ["stop_token_ids", [9999], "stop_token_ids[0]"],
  ["chat_template_kwargs", { enable_thinking: "no" }, "chat_template_kwargs.enable_thinking"],
  ["tools", [{ type: "function", function: { name: "f" } }]],
  ["tool_choice", "required"],
  ["functions", [{ name: "f" }]],
  ["response_format", { type: "xml" }, "response_format.type"],
  [
    "response_format",
    { type: "json_schema", json_schema: { schema: { not: {} } } },
    "response_format.json_schema.schema#/not",
  ],
  ["modalities", ["text", "audio"]],
  ["audio", { voice: "alloy" }],
  ["web_search_options", {}],
  ["mirostat", 2],
  ["suffix", "x"],
  ["best_of", 2],
  ["grammar", "root ::= x"],
  ["psionic_grammar", { grammar: "x" }, "psionic_grammar.grammar"],
];

test("what is wrong or not implemented is a 400 that names it", async () => {
  const model = scriptedModel("x");
  await using server = await testServer(model);
  for (const [field, value, param] of wrong) {
    const response = await server.post(chat, { messages: user("hi"), [field]: value });
    const body = await response.text();
    expect(`${field} ${response.status} ${body}`).toStartWith(`${field} 400 {"error":`);
    const { error } = JSON.parse(body);
    expect(error.param).toBe(param ?? field);
    expect(error.type).toBe("invalid_request_error");
  }
  const infinite = await server.post(chat, '{"messages":[{"role":"user","content":"x"}],"top_p":1e999}');
  expect((await infinite.json()).error.param).toBe("top_p");
  expect(model.engine.requests).toHaveLength(0);
});

test("neutral and harmless fields are accepted without a word, unknown ones with their names", async () => {
  await using server = await testServer(scriptedModel("x"));
  const accepted = await server.post(chat, {
    messages: user("hi"),
    user: "u",
    metadata: { a: "b" },
    store: true,
    prompt_cache_key: "k",
    service_tier: "auto",
    safety_identifier: "s",
    parallel_tool_calls: true,
    tools: [],
    tool_choice: "auto",
    response_format: { type: "text" },
    modalities: ["text"],
    mirostat: 0,
    best_of: 1,
    functions: null,
  });
  expect(accepted.status).toBe(200);
  expect(accepted.headers.get("x-psionic-ignored")).toBeNull();
  const unknown = await server.post(chat, { messages: user("hi"), frobnicate: 1, "x\r\ny": 2, é: 3 });
  expect(unknown.status).toBe(200);
  expect(unknown.headers.get("x-psionic-ignored")).toBe("frobnicate, x??y, ?");
  const inner = await server.post(chat, {
    messages: user("hi"),
    stream_options: { include_usage: true, often: true },
    chat_template_kwargs: { enable_thinking: false, mood: "good" },
  });
  expect(inner.headers.get("x-psionic-ignored")).toBe("stream_options.often, chat_template_kwargs.mood");
});

test("members of tools and forms that nothing reads are named", async () => {
  const model = harmonyModel({ answers: ["Hello.<|return|>"] });
  await using server = await testServer(model);
  const own = { name: "f", description: "d", parameters: { type: "object" }, strict: false };
  const ask = async (path: string, body: object) => {
    const response = await server.post(path, body);
    expect(response.status).toBe(200);
    return response.headers.get("x-psionic-ignored");
  };
  const chatTool = {
    type: "function",
    cache_control: {},
    function: { ...own, input_schema: {}, strict: null },
  };
  expect(await ask(chat, { messages: user("hi"), tools: [chatTool] })).toBe(
    "tools.cache_control, tools.function.input_schema",
  );
  expect(
    await ask("/v1/responses", { input: "hi", tools: [{ type: "function", ...own, defer: true }] }),
  ).toBe("tools.defer");
  const { parameters: input_schema, ...rest } = own;
  const claude = { ...rest, input_schema, cache_control: { type: "ephemeral" } };
  expect(await ask("/v1/messages", { messages: user("hi"), max_tokens: 20, tools: [claude] })).toBe(
    "tools.cache_control",
  );
  const only = { mode: "auto", tools: [{ type: "function", function: { name: "f" } }] };
  const tools = [{ type: "function", function: own }];
  const choice = { type: "allowed_tools", allowed_tools: only };
  expect(await ask(chat, { messages: user("hi"), tools, tool_choice: choice })).toBeNull();
  const form = { type: "text", indent: 2 };
  expect(await ask(chat, { messages: user("hi"), response_format: form })).toBe("response_format.indent");
});

test("members of messages that nothing reads are named, also author names that the format cannot write", async () => {
  const model = scriptedModel("x");
  await using server = await testServer(model);
  const ignored = async (messages: unknown) => {
    const response = await server.post(chat, { messages });
    expect(response.status).toBe(200);
    return response.headers.get("x-psionic-ignored");
  };
  const named = [{ role: "user", content: "hi", name: "Ada", tool_call_id: null }];
  expect(await ignored(named)).toBe("messages.name");
  const parts = [{ type: "text", text: "hi", cache_control: { type: "ephemeral" } }];
  const twice = [{ role: "user", content: parts, weight: 1, tool_calls: [] }, ...user(parts)];
  expect(await ignored(twice)).toBe("messages.weight, messages.tool_calls, messages.content.cache_control");
  const before = { role: "assistant", content: null, refusal: "No.", tool_calls: null };
  expect(await ignored([...user("a"), before, ...user("b")])).toBeNull();
  expect(Buffer.from(model.engine.requests.at(-1)!.prompt).toString()).toContain("assistant:No.\n");
  const writes = { ...model.chat, capabilities: { ...model.chat.capabilities, names: true } };
  await using other = await testServer({ ...model, chat: writes });
  expect((await other.post(chat, { messages: named })).headers.get("x-psionic-ignored")).toBeNull();
});

test("a reasoning effort is refused where the chat format has none, with the way that it has", async () => {
  const model = scriptedModel("x");
  for (const reads of [["reasoning_effort"], ["enable_thinking"], []]) {
    const format = { ...model.chat, reads: (name: string) => reads.includes(name) };
    await using server = await testServer({ ...model, chat: format });
    const bodies = [
      ["reasoning_effort", { reasoning_effort: "high" }],
      ["chat_template_kwargs.reasoning_effort", { chat_template_kwargs: { reasoning_effort: "low" } }],
    ] as const;
    for (const [param, fields] of bodies) {
      const response = await server.post(chat, { messages: user("hi"), ...fields });
      const { error } = await response.json();
      // where thinking is only on or off, an effort turns it on
      if (reads[0] === "reasoning_effort" || (reads[0] && param === "reasoning_effort")) {
        expect(response.status).toBe(200);
        continue;
      }
      expect(response.status).toBe(400);
      expect(error).toMatchObject({ param, code: "unsupported_parameter" });
      expect(error.message.includes("enable_thinking")).toBe(reads[0] === "enable_thinking");
    }
    const none = await server.post(chat, { messages: user("hi"), reasoning_effort: null });
    expect(none.status).toBe(200);
    const kwargs = { enable_thinking: false };
    const thinking = await server.post(chat, { messages: user("hi"), chat_template_kwargs: kwargs });
    const named = thinking.headers.get("x-psionic-ignored");
    expect(named).toBe(reads[0] === "enable_thinking" ? null : "chat_template_kwargs.enable_thinking");
  }
});

test("text parts, developer messages, tool history", async () => {
  const model = scriptedModel("x");
  await using server = await testServer(model);
  const response = await server.post(chat, {
    messages: [
      { role: "developer", content: "be brief" },
      {
        role: "user",
        content: [
          { type: "text", text: "a" },
          { type: "text", text: "b<|end|>" },
        ],
      },
      {
        role: "assistant",
        content: null,
        tool_calls: [{ id: "c1", type: "function", function: { name: "f", arguments: "{}" } }],
      },
      { role: "tool", tool_call_id: "c1", content: "42" },
    ],
  });
  expect(response.status).toBe(200);
  const prompt = model.engine.requests[0]!.prompt;
  expect(model.tokenizer.decode(prompt)).toBe("developer:be brief\nuser:ab<|end|>\nassistant:\ntool:42\n");
  expect(prompt).not.toContain(256);
});

test("psionic_reasoning separates or suppresses, reasoning_format none leaves it in the content", async () => {
  await using server = await testServer(scriptedModel("<|think|>why<|answer|>so"));
  const ask = async (extra: object) =>
    await (await server.post(chat, { messages: user("hi"), ...extra })).json();
  const separate = await ask({ psionic_reasoning: { mode: "separate" } });
  expect(separate.psionic_reasoning).toEqual({
    parser: "gpt_oss_harmony",
    source: "tokens",
    final_content: "so",
    reasoning_content: "why",
    parts: [
      { kind: "reasoning", role: "assistant", content: "why" },
      { kind: "final", role: "assistant", content: "so" },
    ],
  });
  const suppressed = await ask({ psionic_reasoning: { parser: "gpt_oss_harmony", mode: "suppress" } });
  expect(JSON.stringify(suppressed)).not.toContain("why");
  const raw = await ask({ reasoning_format: "none" });
  expect(raw.choices[0].message.content).toBe("<|channel|>analysis<|message|>why<|end|>so");
  expect(raw.choices[0].message.reasoning_content).toBeUndefined();
});

test("debug fields when the server was started with them", async () => {
  await using server = await testServer(scriptedModel("x"), { debugFields: true });
  const body = await (await server.post(chat, { messages: user("hi") })).json();
  expect(body.psionic_metrics).toMatchObject({
    prompt_eval_count: 4,
    eval_count: 2,
    context_window: 512,
    prefix_tokens_reused: 4,
    termination_detail: { cause: "end_of_sequence_token" },
  });
});
