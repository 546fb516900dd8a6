import { afterAll, beforeAll, expect, test } from "bun:test";
import { connect, type Socket } from "node:net";
import { bodiesBytes as boundFor } from "./options.ts";
import { parseApiKeys } from "./security.ts";
import { type TestServer, testServer, until } from "./testing/client.ts";
import { scriptedModel } from "./testing/scripted.ts";

/** One client may have 75,000 bytes of these. */
const bodiesBytes = 100_000;
const path = "/v1/chat/completions";
const [one, other] = [{ authorization: "Bearer first-key" }, { authorization: "Bearer other-key" }];

let server: TestServer;
beforeAll(async () => {
  server = await testServer(scriptedModel({ answers: ["x"], contextLength: 200_000 }), {
    apiKeys: parseApiKeys("first-key\nother-key"),
    limits: { bodyBytes: 60_000, bodiesBytes },
  });
});
afterAll(() => server.stop({ force: true }));

function bodyOf(bytes: number): string {
  const chat = (content: string) => JSON.stringify({ messages: [{ role: "user", content }] });
  return chat("a".repeat(bytes - chat("").length));
}

/** A connection that sends all of a body but its last byte. */
function begin(bytes: number, { authorization }: { readonly authorization: string }, to = server): Socket {
  const socket = connect(to.port, "127.0.0.1");
  socket.on("error", () => {});
  const head = ["POST /v1/chat/completions HTTP/1.1", "host: localhost", `authorization: ${authorization}`];
  socket.write([...head, `content-length: ${bytes + 1}`, "", bodyOf(bytes + 1).slice(0, bytes)].join("\r\n"));
  return socket;
}

async function heldBytes(of = server): Promise<number> {
  const text = await (await of.get("/metrics", one)).text();
  return Number(/^psionic_http_body_bytes (\d+)$/m.exec(text)?.[1]);
}

/** Waits until so many bytes are held. */
async function held(bytes: number, of = server): Promise<void> {
  while ((await heldBytes(of)) !== bytes) await Bun.sleep(5);
}

async function sent(bytes: number, headers: Record<string, string>) {
  const response = await server.post(path, bodyOf(bytes), { headers });
  const { error } = await response.json();
  return { status: response.status, code: error?.code, retry: response.headers.get("retry-after") };
}

test("bodies of many connections are bounded together, those of one client before all others'", async () => {
  const sockets = [begin(50_000, one)];
  await held(50_000);
  // 80,000 of one client would leave 20,000, which is less than a third of that
  expect(await sent(30_000, one)).toEqual({ status: 429, code: "rate_limit_exceeded", retry: "1" });
  expect(await sent(30_000, other)).toEqual({ status: 200, code: undefined, retry: null });
  await held(50_000);
  expect(await sent(50_001, other)).toEqual({ status: 503, code: "bodies_full", retry: "1" });
  sockets.push(begin(35_000, other));
  await held(85_000);
  expect(await sent(16_000, other)).toEqual({ status: 503, code: "bodies_full", retry: "1" });
  for (const socket of sockets) socket.destroy();
  await held(0);
  expect((await sent(59_000, one)).status).toBe(200);
});

test("a body without a length is counted as it comes, and refused where it does not fit any more", async () => {
  const socket = begin(50_000, one);
  await held(50_000);
  const parts = new ReadableStream({
    async start(controller) {
      const bytes = Buffer.from(bodyOf(55_000));
      for (let at = 0; at < bytes.length; at += 5000) {
        controller.enqueue(bytes.subarray(at, at + 5000));
        await Bun.sleep(1);
      }
      controller.close();
    },
  });
  const response = await server.post(path, "", { body: parts, headers: other });
  expect([response.status, (await response.json()).error.code]).toEqual([503, "bodies_full"]);
  socket.destroy();
  await held(0);
});

test("a body is held as long as its request is answered, and a refused one no longer", async () => {
  const slow = scriptedModel({ answers: ["abc"], prefillMs: 60_000, contextLength: 4096 });
  await using busy = await testServer(slow, { limits: { bodyBytes: 60_000, bodiesBytes } });
  const leaving = new AbortController();
  const waiting = busy.post(path, bodyOf(1000), { signal: leaving.signal }).catch(() => undefined);
  await until(() => slow.engine.requests.length === 1);
  expect(await heldBytes(busy)).toBe(1000);
  expect((await busy.post(path, "{")).status).toBe(400);
  expect((await busy.post("/nothing", bodyOf(1000))).status).toBe(404);
  expect(await heldBytes(busy)).toBe(1000);
  leaving.abort();
  await waiting;
  await held(0, busy);
});

test("a body that does not come to its end is a 408", async () => {
  await using hurried = await testServer(scriptedModel("x"), { limits: { bodyBytes: 60_000, bodyMs: 50 } });
  const socket = begin(1000, one, hurried);
  let answer = "";
  socket.on("data", (data) => {
    answer += data.toString();
  });
  await until(() => answer.includes("body_timeout"));
  expect(answer).toStartWith("HTTP/1.1 408");
  socket.destroy();
  expect(await heldBytes(hurried)).toBe(0);
});

test("what comes a byte at a time is the same body", async () => {
  const text = bodyOf(2000);
  const bytes = new ReadableStream({
    async start(controller) {
      for (const byte of Buffer.from(text)) {
        controller.enqueue(new Uint8Array([byte]));
        if (Math.random() < 0.05) await Bun.sleep(0);
      }
      controller.close();
    },
  });
  expect((await server.post(path, "", { body: bytes, headers: one })).status).toBe(200);
});

test("the bound follows the memory", () => {
  const gib = 2 ** 30;
  expect([1, 23.5 * gib, 100 * gib, 560 * gib].map(boundFor)).toEqual([
    gib / 4,
    (23.5 / 32) * gib,
    3.125 * gib,
    4 * gib,
  ]);
});
