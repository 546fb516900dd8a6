import { expect, test } from "bun:test";
import { connect } from "node:net";
import { checkBind, corsRule, hostRule, isLoopback, parseApiKeys } from "./security.ts";
import { testServer } from "./testing/client.ts";
import { scriptedModel } from "./testing/scripted.ts";

test("hosts that may be bound without keys", () => {
  for (const host of ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"]) {
    expect(isLoopback(host)).toBe(true);
    checkBind(host, undefined, false);
  }
  for (const host of ["0.0.0.0", "::", "192.168.1.5", "example.com", "127.0.0.1.example.com"]) {
    expect(() => checkBind(host, undefined, false)).toThrow("--api-key-file");
    checkBind(host, parseApiKeys("long enough"), false);
    checkBind(host, undefined, true);
  }
});

test("host names that are answered", () => {
  const local = hostRule("127.0.0.1", ["my.name"]);
  for (const host of [
    "127.0.0.1:8080",
    "localhost",
    "LOCALHOST:1",
    "[::1]:80",
    "a.localhost",
    "my.name:9",
    "localhost.",
  ]) {
    expect([host, local(host)]).toEqual([host, true]);
  }
  for (const host of [
    "evil.com",
    "localhost.evil.com",
    "192.168.0.1",
    "",
    "a b",
    "localhost:x",
    "localhost@evil.com",
    "my.name.evil",
  ]) {
    expect([host, local(host)]).toEqual([host, false]);
  }
  const everywhere = hostRule("0.0.0.0", []);
  expect([everywhere("192.168.0.1:8080"), everywhere("[fe80::1]"), everywhere("evil.com")]).toEqual([
    true,
    true,
    false,
  ]);
});

test("an origin that no page has is refused at the start", async () => {
  for (const origin of ["https://app.example/", "app.example", "https://a b", "**"]) {
    expect(() => corsRule([origin])).toThrow("[cors-origin] expected an origin like https://app.example");
  }
  const rule = corsRule(["https://App.example:8443", "chrome-extension://abc", "null", "*"]);
  expect([rule.origins.has("https://app.example:8443"), rule.any]).toEqual([true, true]);
});

test("a rebound name is refused before anything else", async () => {
  await using server = await testServer(scriptedModel("x"), {
    apiKeys: parseApiKeys("a secret key"),
    corsOrigins: ["*"],
  });
  const response = await server.get("/health", { host: "evil.com", origin: "http://evil.com" });
  expect(response.status).toBe(403);
  expect((await response.json()).error.code).toBe("host_not_allowed");
  expect(response.headers.get("access-control-allow-origin")).toBeNull();
});

test("pages of other origins are refused, preflight included, unless listed", async () => {
  const model = scriptedModel("x");
  await using server = await testServer(model, { corsOrigins: ["https://app.example"] });
  const send = (origin: string, method = "POST") =>
    fetch(`${server.url}/v1/chat/completions`, {
      method,
      headers: {
        origin,
        "content-type": "text/plain",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-mine",
      },
      ...(method === "POST" ? { body: '{"messages":[{"role":"user","content":"x"}]}' } : {}),
    });
  for (const origin of ["https://evil.example", "null", "http://app.example"]) {
    for (const method of ["POST", "OPTIONS"]) {
      const refused = await send(origin, method);
      expect([refused.status, refused.headers.get("access-control-allow-origin")]).toEqual([403, null]);
    }
  }
  expect(model.engine.requests).toHaveLength(0);
  for (const origin of ["https://app.example", server.url]) {
    const allowed = await send(origin);
    expect(allowed.status).toBe(200);
    expect(allowed.headers.get("access-control-allow-origin")).toBe(origin);
    expect(allowed.headers.get("vary")).toBe("origin");
    const asked = await send(origin, "OPTIONS");
    expect(asked.status).toBe(204);
    expect(asked.headers.get("access-control-allow-methods")).toContain("POST");
    expect(asked.headers.get("access-control-allow-headers")).toContain("x-mine");
  }
});

test("a key guards everything but liveness", async () => {
  const model = scriptedModel("x");
  const apiKeys = parseApiKeys("# keys\nfirst-key-123\n\nsecond-key-456\n");
  await using server = await testServer(model, { apiKeys });
  for (const path of ["/v1/models", "/metrics", "/props", "/nothing", "/v1/chat/completions"]) {
    const refused = await server.get(path);
    expect(refused.status).toBe(401);
    expect(refused.headers.get("www-authenticate")).toBe("Bearer");
    expect((await refused.json()).error.type).toBe("authentication_error");
  }
  expect((await server.get("/v1/models", { authorization: "Bearer first-key-12" })).status).toBe(401);
  expect(await (await server.get("/health")).json()).toEqual({ status: "ok" });
  expect(await (await server.get("/health", { "x-api-key": "first-key-123" })).json()).toMatchObject({
    backend: "cpu",
  });
  const body = { messages: [{ role: "user", content: "x" }] };
  await server.post("/v1/chat/completions", body, { headers: { authorization: "Bearer first-key-123" } });
  await server.post("/v1/chat/completions", body, { headers: { "x-api-key": "second-key-456" } });
  const { requests } = model.engine;
  expect(new Set(requests.map(({ tenant }) => tenant)).size).toBe(2);
  expect(new Set(requests.map(({ client }) => client)).size).toBe(2);
});

test("key files", () => {
  expect(() => parseApiKeys("# nothing\n")).toThrow("at least one key");
  expect(() => parseApiKeys("short\n")).toThrow("at least 8 characters");
});

/** The status line of the answer to raw bytes. */
function rawStatus(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1", () => socket.write(text));
    socket.once("data", (data) => {
      resolve(data.toString("latin1").split("\r\n")[0] ?? "");
      socket.destroy();
    });
    socket.once("error", reject);
    socket.once("close", () => resolve("closed"));
  });
}

test("requests that no client sends", async () => {
  await using server = await testServer(scriptedModel("x"));
  expect(await rawStatus(server.port, "GET /health HTTP/1.0\r\n\r\n")).toContain(" 403 ");
  expect(await rawStatus(server.port, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")).toContain(" 200 ");
  expect(
    await rawStatus(server.port, "GET http://evil.com/health HTTP/1.1\r\nHost: evil.com\r\n\r\n"),
  ).toContain(" 403 ");
  expect(await rawStatus(server.port, "GARBAGE\r\n\r\n")).toMatch(/ 400 |closed/);
  expect((await server.get("/health")).status).toBe(200);
  expect(server.errors).toEqual([]);
});
