import { expect, test } from "bun:test";
import { Activity } from "./activity.ts";
import type { RequestRecord } from "./request_log.ts";
import { testServer, until } from "./testing/client.ts";
import { scriptedModel } from "./testing/scripted.ts";

const path = "/psionic/management/activity";

function record(id: string, more: Partial<RequestRecord> = {}): RequestRecord {
  const facts = {
    ...{ method: "POST", path: "/chat/completions", route: "/v1/chat/completions" },
    ...{ startedAt: 0, status: 200 },
  };
  return { id, ...facts, ...more };
}

test("a request is in the log while it runs and after, with its timings", async () => {
  await using server = await testServer(scriptedModel({ answers: ["word ".repeat(40)], tokenMs: 2 }));
  const answering = server.post("/v1/chat/completions", {
    messages: [{ role: "user", content: "hi" }],
    stream: true,
  });
  const response = await answering;
  const during = await (await server.get(path)).json();
  expect(during.requests).toHaveLength(1);
  const id = response.headers.get("x-request-id");
  expect(during.requests[0]).toMatchObject({
    request_id: id,
    state: "running",
    status: null,
    duration_ms: null,
  });
  await response.text();
  const { requests, load, cursor } = await (await server.get(`${path}?after=${during.cursor}`)).json();
  expect(requests).toHaveLength(1);
  expect(requests[0]).toMatchObject({
    ...{ request_id: id, state: "done", status: 200, stream: true, method: "POST" },
    ...{
      route: "/v1/chat/completions",
      model: "Test-Model.gguf",
      completion_tokens: 201,
      finish: "end_of_sequence_token",
      error: null,
    },
  });
  for (const name of ["duration_ms", "ttft_ms", "itl_ms", "started_at_ms"])
    expect(requests[0][name]).toBeGreaterThan(0);
  expect(requests[0].duration_ms).toBeGreaterThan(requests[0].ttft_ms);
  expect(Math.abs(Date.now() - requests[0].started_at_ms)).toBeLessThan(60_000);
  expect(load.memory.resident_bytes).toBeGreaterThan(1e6);
  // nothing new, so nothing comes
  expect((await (await server.get(`${path}?after=${cursor}`)).json()).requests).toEqual([]);
  const status = await (await server.get("/psionic/management/status")).json();
  expect(status.load).toMatchObject({ active: 0, queued: 0, prefix_cache: { hits: 0, hit_rate: null } });
});

test("watching is not logged, failures are; a bad cursor is a 400", async () => {
  await using server = await testServer(scriptedModel("x"));
  for (const quiet of [
    "/",
    "/health",
    "/metrics",
    "/v1/models",
    "/props",
    path,
    "/psionic/management/status",
  ]) {
    await (await server.get(quiet)).text();
  }
  const leaving = new AbortController();
  const events = await fetch(`${server.url}/psionic/management/events`, { signal: leaving.signal });
  await events.body!.getReader().read();
  leaving.abort();
  await until(() => server.lines.some((line) => line.includes("/events 499 ")));
  expect((await server.get("/nothing")).status).toBe(404);
  await server.post("/v1/chat/completions", { messages: [] });
  const { requests } = await (await server.get(path)).json();
  expect(requests.map(({ route, status, error }: Record<string, unknown>) => [route, status, error])).toEqual(
    [
      ["unmatched", 404, "not_found"],
      ["/v1/chat/completions", 400, "invalid_value"],
    ],
  );
  for (const bad of ["x", "-1", "1.5", ""]) {
    const refused = await server.get(`${path}?after=${bad}`);
    expect([bad, refused.status]).toEqual([bad, 400]);
    expect((await refused.json()).error.param).toBe("after");
  }
});

test("samples have rates of the time since the one before; both lists are bounded", async () => {
  const { engine } = scriptedModel("x");
  const counted = { ...engine.stats(), completionTokens: 0, active: 0 };
  const activity = new Activity(() => [
    { ...engine, info: engine.info, stats: () => counted } as unknown as typeof engine,
  ]);
  try {
    activity.sample();
    counted.completionTokens = 500;
    counted.active = 3;
    await Bun.sleep(20);
    activity.sample();
    const [first, second] = activity.since(0).samples;
    expect(first).toMatchObject({ completion_tokens_per_second: 0, active: 0 });
    expect(second?.active).toBe(3);
    // 500 tokens in 20 ms or, on a busy machine, more
    expect(second?.completion_tokens_per_second).toBeGreaterThan(100);
    expect(second?.completion_tokens_per_second).toBeLessThanOrEqual(30_000);
    // a model was unloaded and its counts with it
    counted.completionTokens = 0;
    activity.sample();
    expect(activity.load().completion_tokens_per_second).toBe(0);
    for (let i = 0; i < 400; i++) activity.sample();
    for (let i = 0; i < 250; i++) {
      activity.begin(record(`r${i}`));
      if (i !== 7) activity.end(record(`r${i}`), 5);
    }
    const { samples, requests } = activity.since(0);
    expect(samples).toHaveLength(300);
    expect(requests).toHaveLength(100);
    expect(requests.some(({ request_id, state }) => request_id === "r7" && state === "running")).toBe(true);
    expect(requests.at(-1)?.request_id).toBe("r249");
  } finally {
    activity.close();
  }
});

test("a client that leaves is in the log with 499", async () => {
  const model = scriptedModel({ answers: ["word ".repeat(1600)], tokenMs: 5, contextLength: 8192 });
  await using server = await testServer(model);
  const leaving = new AbortController();
  const body = JSON.stringify({ messages: [{ role: "user", content: "hi" }], stream: true });
  await fetch(`${server.url}/v1/chat/completions`, {
    ...{ method: "POST", body, signal: leaving.signal, headers: { "content-type": "application/json" } },
  });
  leaving.abort();
  await until(() => model.engine.running === 0 && server.lines.length > 0);
  const { requests } = await (await server.get(path)).json();
  expect(requests[0]).toMatchObject({ state: "done", status: 499 });
});
