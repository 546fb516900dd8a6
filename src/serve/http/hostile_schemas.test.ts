/** Schemas that take long to compile: they hold up nobody else. */
import { expect, test } from "bun:test";
import { testServer, until } from "./testing/client.ts";
import { scriptedModel } from "./testing/scripted.ts";

const messages = [{ role: "user", content: "hi" }];
const chat = "/v1/chat/completions";

/** 100,000 different texts, about the most that is served. */
const choices = Array.from({ length: 100_000 }, (_, i) => `${((i * 2_654_435_761) % 2 ** 32).toString(36)}`);

/** About a second of work before it is refused. */
const ranges = {
  anyOf: Array.from({ length: 5000 }, (_, i) => ({
    type: "integer",
    minimum: i * 1e9 + 17,
    maximum: i * 1e11 + 10_007,
  })),
};

test("while large schemas compile, other requests go on", async () => {
  const model = scriptedModel({ answers: ["word ".repeat(12_000)], tokenMs: 4, contextLength: 65_536 });
  await using server = await testServer(model);
  const stream = await server.post(chat, { messages, stream: true });
  let chunks = 0;
  let gap = 0;
  const read = async () => {
    let last = performance.now();
    for await (const _ of stream.body!) {
      chunks += 1;
      gap = Math.max(gap, performance.now() - last);
      last = performance.now();
    }
  };
  // the server is stopped before the stream ends
  const reading = read().catch(() => {});
  await until(() => chunks > 3);
  const before = chunks;
  const begin = performance.now();
  let running = true;
  const asking = Promise.all([
    server.post(chat, { messages, max_tokens: 1, guided_choice: choices }),
    server.post(chat, { messages, max_tokens: 1, guided_json: ranges }),
  ]).finally(() => {
    running = false;
  });
  let slowest = 0;
  let answers = 0;
  while (running) {
    const asked = performance.now();
    expect((await server.get("/health")).status).toBe(200);
    slowest = Math.max(slowest, performance.now() - asked);
    answers += 1;
  }
  const [chosen, ranged] = await asking;
  const took = performance.now() - begin;
  expect(await chosen.json()).toMatchObject({ object: "chat.completion" });
  expect((await ranged.json()).error).toMatchObject({ param: "guided_json", code: "invalid_value" });
  // compiled on this thread, the two would be one gap of nearly all that time
  expect(answers).toBeGreaterThan(10);
  expect(chunks - before).toBeGreaterThan(10);
  expect(slowest).toBeLessThan(took / 2);
  expect(gap).toBeLessThan(took / 2);
  await server.stop({ force: true });
  await reading;
}, 120_000);

test("a client that leaves stops what was compiled for it", async () => {
  await using server = await testServer(scriptedModel("x"));
  const leaving = new AbortController();
  const asked = server.post(chat, { messages, guided_json: ranges }, { signal: leaving.signal });
  for (let arrived = false; !arrived; ) {
    const { requests } = await (await server.get("/psionic/management/activity")).json();
    arrived = requests.some(({ route }: { readonly route: string }) => route === chat);
  }
  leaving.abort();
  await expect(asked).rejects.toThrow();
  await until(() => server.lines.some((line) => line.includes(" 499 ")));
});
