import { expect, test } from "bun:test";
import { unexpected } from "../../core/error.ts";
import type { ServedModel } from "./options.ts";
import { testServer, until } from "./testing/client.ts";
import { scriptedModel } from "./testing/scripted.ts";

const user = (content: string) => [{ role: "user", content }];

test("health tells loading, loaded, failed; the port is open before the model is there", async () => {
  const later = Promise.withResolvers<ServedModel>();
  await using server = await testServer(later.promise);
  const early = await server.get("/health");
  expect(early.status).toBe(503);
  expect(await early.json()).toMatchObject({ status: "loading", error: { code: "model_loading" } });
  const refused = await server.post("/v1/chat/completions", { messages: user("hi") });
  expect(refused.status).toBe(503);
  expect(refused.headers.get("retry-after")).toBe("1");
  later.resolve(scriptedModel("hello"));
  await server.ready;
  const body = await (await server.get("/health")).json();
  expect(body).toMatchObject({
    status: "ok",
    model: "Test-Model.gguf",
    backend: "cpu",
    execution_mode: "native",
    execution_engine: "psionic",
    residency_mode: "cpu_only",
    hybrid_offload: "unsupported",
    fallback_policy: "refuse",
    performance_class: "portable_cpu_degraded",
    load_status: "loaded",
    warm_control: "not_implemented",
  });

  const failing = Promise.withResolvers<ServedModel>();
  await using broken = await testServer(failing.promise);
  failing.reject(new Error("secret reason"));
  await broken.ready.catch(() => {});
  const failed = await broken.get("/health");
  expect(failed.status).toBe(503);
  expect(await failed.text()).not.toContain("secret");
});

test("health is 503 when the engine has died", async () => {
  const model = scriptedModel("x");
  await using server = await testServer(model);
  model.engine.failure = new Error("worker ended at 0xbeef");
  const response = await server.get("/health");
  expect(response.status).toBe(503);
  const body = await response.json();
  expect(body).toMatchObject({ status: "failed", error: { code: "engine_failed" } });
});

test("model list and card", async () => {
  await using server = await testServer(scriptedModel("x"));
  for (const path of ["/v1/models", "/models"]) {
    const list = await (await server.get(path)).json();
    expect(list.object).toBe("list");
    expect(list.data[0]).toMatchObject({
      id: "Test-Model.gguf",
      object: "model",
      owned_by: "psionic",
      n_ctx: 512,
      context_length: 512,
      max_model_len: 512,
      meta: { n_ctx: 512 },
      capabilities: ["completion", "chat", "reasoning", "embedding"],
      modalities: { input: ["text"], output: ["text"] },
      psionic_model_family: "gpt_oss",
      psionic_served_backend: "cpu",
      psionic_fallback_policy: "refuse",
    });
    expect(Number.isInteger(list.data[0].created)).toBe(true);
  }
  const id = `test-model@sha256:${"ab".repeat(32)}`;
  for (const name of ["Test-Model.gguf", "Test-Model", id, encodeURIComponent(id)]) {
    expect((await server.get(`/v1/models/${name}`)).status).toBe(200);
  }
  const missing = await server.get("/v1/models/gpt-4");
  expect(missing.status).toBe(404);
  expect((await missing.json()).error).toMatchObject({ code: "model_not_found", param: "model" });
});

test("unknown paths and wrong methods are quick, readable JSON", async () => {
  await using server = await testServer(scriptedModel("x"));
  for (const path of [
    "/api/tags",
    "/v1/nothing",
    "/version",
    "/v1/v1/models",
    "/%ff",
    "/%zz",
    "/v1/models/a/b",
  ]) {
    const response = await server.get(path);
    expect(response.status).toBe(404);
    expect((await response.json()).error.message).toContain("/v1/chat/completions");
  }
  for (const path of ["/v1/models/%ff", "/v1/models/%zz", "/v1/models/%00"]) {
    expect((await server.get(path)).status).toBe(404);
  }
  const wrong = await server.get("/v1/chat/completions");
  expect(wrong.status).toBe(405);
  expect(wrong.headers.get("allow")).toBe("POST, OPTIONS");
  expect((await wrong.json()).error.code).toBe("method_not_allowed");
  const head = await fetch(`${server.url}/health`, { method: "HEAD" });
  expect([head.status, await head.text()]).toEqual([200, ""]);
  const length = String((await (await server.get("/health")).text()).length);
  expect(head.headers.get("content-length")).toBe(length);
});

test("a HEAD of a stream opens none", async () => {
  await using server = await testServer(scriptedModel("x"));
  for (let i = 0; i < 3; i++) {
    const head = await fetch(`${server.url}/psionic/management/events`, { method: "HEAD" });
    expect([head.status, head.headers.get("content-type")]).toEqual([
      200,
      "text/event-stream; charset=utf-8",
    ]);
  }
  // a request stands in the log when it has ended
  await until(() => server.lines.filter((line) => line.startsWith("HEAD ")).length === 3);
  const metrics = await (await server.get("/metrics")).text();
  expect(metrics).toContain("psionic_http_requests_in_flight 1\n");
});

test("props, tokenize and detokenize in llama.cpp's shapes", async () => {
  await using server = await testServer(scriptedModel("x"));
  expect(await (await server.get("/props")).json()).toMatchObject({
    default_generation_settings: { n_ctx: 512 },
    total_slots: 4,
    model_path: "/models/Test-Model.gguf",
    chat_template: "lines",
    modalities: { vision: false, audio: false },
  });
  const tokens = async (body: object) => (await (await server.post("/tokenize", body)).json()).tokens;
  expect(await tokens({ content: "hi<|end|>" })).toEqual([104, 105, 256]);
  expect(await tokens({ content: "<|end|>", parse_special: false })).toHaveLength(7);
  expect(await tokens({ content: "é", with_pieces: true })).toEqual([
    { id: 195, piece: [195] },
    { id: 169, piece: [169] },
  ]);
  const text = await server.post("/v1/detokenize", { tokens: [104, 195, 169] });
  expect(await text.json()).toEqual({ content: "hé" });
  const wrong = await server.post("/detokenize", { tokens: [104, 9999] });
  expect((await wrong.json()).error.param).toBe("tokens[1]");
});

test("bodies that are no JSON object", async () => {
  await using server = await testServer(scriptedModel("x"), { limits: { bodyBytes: 4096 } });
  const status = async (body: BodyInit, headers: Record<string, string> = {}) => {
    const response = await server.post("/v1/chat/completions", "", { body, headers });
    const { error } = await response.json();
    expect(Object.keys(error).sort()).toEqual(["code", "message", "param", "type"]);
    return [response.status, error.code];
  };
  expect(await status("")).toEqual([400, "invalid_json"]);
  expect(await status("{")).toEqual([400, "invalid_json"]);
  expect(await status("[1]")).toEqual([400, "invalid_type"]);
  expect(await status("null")).toEqual([400, "invalid_type"]);
  expect(await status(new Uint8Array([0x22, 0xff, 0x22]))).toEqual([400, "invalid_json"]);
  expect(await status("[".repeat(4000))).toEqual([400, "invalid_json"]);
  expect(await status("{}", { "content-type": "multipart/form-data" })).toEqual([
    415,
    "unsupported_media_type",
  ]);
  expect(await status("x".repeat(5000))).toEqual([413, "body_too_large"]);
  const chunks = new ReadableStream({
    start(controller) {
      for (let i = 0; i < 10; i++) controller.enqueue(new Uint8Array(1000).fill(32));
      controller.close();
    },
  });
  expect(await status(chunks)).toEqual([413, "body_too_large"]);
});

test("faults stay inside: 500 with the request's id, and the log has the cause", async () => {
  const cause = unexpected("native_failed", "matmul", "status 0", "status 7 at 0xdeadbeef");
  await using server = await testServer(scriptedModel({ answers: ["x"], refuse: cause }));
  const response = await server.post("/v1/chat/completions", { messages: user("hi") });
  const body = await response.text();
  expect(response.status).toBe(500);
  expect(body).not.toContain("deadbeef");
  expect(body).toContain(response.headers.get("x-request-id")!);
  expect(server.errors).toEqual([cause]);
});

test("a full queue is 503 with retry-after, also for streams", async () => {
  const refuse = unexpected("queue_full", "queue", "at most 8 waiting", "8", { details: { maxQueue: 8 } });
  await using server = await testServer(scriptedModel({ answers: ["x"], refuse }));
  for (const stream of [false, true]) {
    const response = await server.post("/v1/chat/completions", { messages: user("hi"), stream });
    expect(response.status).toBe(503);
    expect(response.headers.get("retry-after")).toBe("1");
    expect((await response.json()).error.code).toBe("queue_full");
  }
});

test("a client with too much in the queue is told so alone, in the form of each API", async () => {
  const details = { maxQueue: 8, queued: 6, ownWaiting: 6 };
  const refuse = unexpected("queue_full", "queue", "a client with fewer waiting requests", 6, { details });
  await using server = await testServer(scriptedModel({ answers: ["x"], refuse }));
  const asked: readonly (readonly [path: string, body: object])[] = [
    ["/v1/chat/completions", { messages: user("hi") }],
    ["/v1/chat/completions", { messages: user("hi"), stream: true }],
    ["/v1/responses", { input: "hi" }],
    ["/v1/messages", { messages: user("hi"), max_tokens: 5 }],
    ["/v1/embeddings", { input: "hi" }],
  ];
  for (const [path, body] of asked) {
    const response = await server.post(path, body);
    expect([path, response.status, response.headers.get("retry-after")]).toEqual([path, 429, "1"]);
    const { error } = await response.json();
    expect(error.message).toBe("6 requests of this client are waiting already. Please try again in 1s.");
    expect(error.type).toBe("rate_limit_error");
  }
});

test("metrics show requests, tokens and ignored fields", async () => {
  await using server = await testServer(scriptedModel("hello"));
  await server.post("/v1/chat/completions", { messages: user("hi"), frobnicate: 1, "mad name\n": 2 });
  await server.get("/nothing");
  const text = await (await server.get("/metrics")).text();
  expect(text).toContain(
    'psionic_http_requests_total{route="/v1/chat/completions",method="POST",status="200"} 1',
  );
  expect(text).toContain('psionic_http_requests_total{route="unmatched",method="GET",status="404"} 1');
  expect(text).toContain("psionic_ignored_fields_total 2");
  expect(text).toContain('psionic_time_to_first_token_seconds_count{model="Test-Model.gguf"} 1');
  expect(text).toContain('psionic_inter_token_seconds_count{model="Test-Model.gguf"} 4');
  expect(text).toContain('psionic_model_loaded{model="Test-Model.gguf"} 1');
  expect(text).toContain('psionic_completion_tokens_total{model="Test-Model.gguf"} 0');
  expect(text).toMatch(/process_resident_memory_bytes \d{7,}/);
  expect(text).toContain("psionic_http_requests_in_flight 1");
});

test("one log line per request, for people or machines", async () => {
  await using server = await testServer(scriptedModel("hello"), { logFormat: "json" });
  await (await server.post("/v1/chat/completions", { messages: user("hi"), stream: true })).text();
  await until(() => server.lines.length === 1);
  expect(JSON.parse(server.lines[0]!)).toMatchObject({
    path: "/v1/chat/completions",
    route: "/v1/chat/completions",
    status: 200,
    stream: true,
    prompt_tokens: 8,
    cached_tokens: 4,
    completion_tokens: 6,
    finish: "end_of_sequence_token",
  });
});

test("the log shows the path that was asked for, without its query; the metric has the route", async () => {
  await using server = await testServer(scriptedModel("x"));
  const long = `/${"a".repeat(300)}`;
  for (const path of ["/health", "/v1/health", "/v1/models/a%0Ab", "/no/where?key=secret", long]) {
    await (await server.get(path)).text();
  }
  await until(() => server.lines.length === 5);
  const asked = server.lines.map((line) => line.split(" ")[1]);
  expect(asked).toEqual([
    "/health",
    "/v1/health",
    "/v1/models/a%0Ab",
    "/no/where",
    `${long.slice(0, 253)}...`,
  ]);
  const metrics = await (await server.get("/metrics")).text();
  expect(metrics).toContain('psionic_http_requests_total{route="/v1/health",method="GET",status="200"} 2');
});

test("draining: running answers end, new ones are refused, force ends them", async () => {
  const model = scriptedModel({ answers: ["a long enough answer"], tokenMs: 5 });
  const server = await testServer(model);
  const running = server.post("/v1/chat/completions", { messages: user("hi") });
  await until(() => model.engine.running === 1);
  const stopped = server.stop();
  expect((await (await running).json()).choices[0].message.content).toBe("a long enough answer");
  await stopped;

  const slow = scriptedModel({ answers: ["never ends"], tokenMs: 200 });
  const forced = await testServer(slow);
  const cut = forced.post("/v1/chat/completions", { messages: user("hi") }).then(
    (response) => response.status,
    () => "closed",
  );
  await until(() => slow.engine.running === 1);
  await forced.stop({ force: true });
  expect([503, "closed"]).toContain(await cut);
  await until(() => slow.engine.running === 0);
});

test("a member that is missing is named, inside objects too", async () => {
  await using server = await testServer(scriptedModel("x"));
  const error = async (path: string, body: object) => (await (await server.post(path, body)).json()).error;
  expect(await error("/v1/chat/completions", {})).toEqual({
    message: "[messages] expected a value, got nothing",
    type: "invalid_request_error",
    param: "messages",
    code: "missing_required_parameter",
  });
  const cache = { messages: user("hi"), psionic_prefix_cache: {} };
  expect((await error("/v1/chat/completions", cache)).message).toBe(
    "[psionic_prefix_cache.mode] expected a value, got nothing",
  );
  expect((await error("/tokenize", {})).message).toBe("[content] expected a value, got nothing");
});

test("a port is one server's: a second one is refused, not given half of the requests", async () => {
  await using first = await testServer(scriptedModel("x"));
  await expect(testServer(scriptedModel("y"), { port: first.port })).rejects.toThrow(
    "[server] expected a free port",
  );
});
