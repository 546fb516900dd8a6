import { expect, test } from "bun:test";
import type { Steps } from "../../core/steps.ts";
import { Slices } from "./slices.ts";
import { testServer } from "./testing/client.ts";
import { scriptedModel } from "./testing/scripted.ts";

const never = new AbortController().signal;

/** So many steps of a millisecond; tells after each. */
function* busy(steps: number, after: (done: number) => void = () => {}): Steps<number> {
  for (let i = 1; i <= steps; i++) {
    const until = performance.now() + 1;
    while (performance.now() < until);
    after(i);
    yield;
  }
  return steps;
}

test("others are served between slices, and short work of another client ends before long work", async () => {
  const slices = new Slices();
  const order: string[] = [];
  let turns = 0;
  const counting = setInterval(() => turns++, 0);
  const long = slices.run("a", busy(100), never).then(() => order.push("long"));
  const other = slices.run("a", busy(100), never).then(() => order.push("other"));
  const short = slices.run("b", busy(3), never).then(() => order.push("short"));
  await Promise.all([long, other, short]);
  clearInterval(counting);
  expect(order[0]).toBe("short");
  // 200 ms of work in slices of five
  expect(turns).toBeGreaterThan(20);
});

test("what fits a slice is done at once, what throws rejects, what nobody wants any more stops", async () => {
  const slices = new Slices();
  let done = 0;
  const at = slices.run(
    "a",
    busy(1, () => done++),
    never,
  );
  expect(done).toBe(1);
  expect(await at).toBe(1);
  function* broken(): Steps<void> {
    yield;
    throw new RangeError("no");
  }
  await expect(slices.run("a", broken(), never)).rejects.toThrow(RangeError);
  const leaving = new AbortController();
  let steps = 0;
  const left = slices.run(
    "a",
    busy(10_000, (n) => {
      steps = n;
      if (n === 30) leaving.abort();
    }),
    leaving.signal,
  );
  await expect(left).rejects.toMatchObject({ code: "cancelled" });
  expect(steps).toBeLessThan(100);
  expect(await slices.run("a", busy(20), never)).toBe(20);
});

test("a server goes on answering while it reads texts of megabytes", async () => {
  await using server = await testServer(scriptedModel({ answers: ["x"], contextLength: 2 ** 20 }));
  let ended = 0;
  const text = "word ".repeat(2 ** 17);
  const bodies: (readonly [string, object])[] = [
    ["/tokenize", { content: text }],
    ["/v1/messages/count_tokens", { messages: [{ role: "user", content: text }] }],
    ["/detokenize", { tokens: new Array(10 ** 5).fill(97) }],
  ];
  const long = bodies.map(async ([path, body]) => {
    const response = await server.post(path, body);
    const read = await response.json();
    ended += 1;
    return [response.status, read.tokens?.length ?? read.input_tokens ?? read.content.length];
  });
  let between = 0;
  while (ended === 0) {
    await (await server.get("/health")).json();
    if (ended === 0) between += 1;
  }
  expect(await Promise.all(long)).toEqual([
    [200, text.length],
    [200, text.length + "user:\n".length],
    [200, 10 ** 5],
  ]);
  // one thread that read them in one go would answer two or three
  expect(between).toBeGreaterThan(5);
}, 60_000);
