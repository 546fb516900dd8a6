import { expect, test } from "bun:test";
import {
  type AnswerTurn,
  awaitsResults,
  emptyAnswer,
  readTurns,
  requestBody,
  type Turn,
  take,
} from "./conversation.ts";
import { eventData } from "./events.ts";
import { bytes, duration, magnitude, rate } from "./format.ts";
import { readSettings } from "./settings.ts";

const plain = { system: "", fields: {} };

function answered(text: string, more: Partial<AnswerTurn> = {}): AnswerTurn {
  return { ...emptyAnswer("m"), text, ...more };
}

test("events of a stream, however it is cut", async () => {
  const text = 'data: {"a":1}\n\n: ping\n\ndata: two\r\n\r\nevent: x\ndata:é\n\ndata: [DONE]\n\n';
  const all = new TextEncoder().encode(text);
  for (const size of [1, 2, 3, 7, all.length]) {
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        for (let i = 0; i < all.length; i += size) controller.enqueue(all.slice(i, i + size));
        controller.close();
      },
    });
    const data: string[] = [];
    for await (const item of eventData(body)) data.push(item);
    expect(data).toEqual(['{"a":1}', "two", "é", "[DONE]"]);
  }
});

test("leaving the events closes the stream", async () => {
  let cancelled = false;
  const body = new ReadableStream<Uint8Array>({
    pull: (controller) => controller.enqueue(new TextEncoder().encode("data: x\n\n")),
    cancel: () => {
      cancelled = true;
    },
  });
  for await (const _ of eventData(body)) break;
  expect(cancelled).toBe(true);
});

test("pieces become an answer", () => {
  const answer = emptyAnswer("m");
  take(answer, { type: "reasoning", text: "hm" });
  take(answer, { type: "content", text: "a" });
  take(answer, { type: "content", text: "b" });
  take(answer, { type: "tool", delta: { index: 0, id: "c1", function: { name: "f", arguments: '{"x"' } } });
  take(answer, { type: "tool", delta: { index: 0, function: { arguments: ":1}" } } });
  take(answer, { type: "finish", reason: "tool_calls" });
  expect(answer).toEqual({
    ...{ role: "assistant", model: "m", text: "ab", reasoning: "hm", finish: "tool_calls" },
    toolCalls: [{ id: "c1", name: "f", arguments: '{"x":1}' }],
  });
  expect(awaitsResults([answer])).toBe(true);
  expect(awaitsResults([{ ...answer, stopped: true }])).toBe(false);
});

test("the request has what was said, and nothing of what failed before a word", () => {
  const call = { id: "c1", name: "f", arguments: "{}" };
  const turns: Turn[] = [
    { role: "user", text: "one" },
    answered("", { error: { message: "no" } }),
    { role: "user", text: "two" },
    answered("half", { stopped: true, reasoning: "hm" }),
    { role: "user", text: "three" },
    answered("", { toolCalls: [call], reasoning: "why" }),
    { role: "tool", callId: "c1", name: "f", text: "4" },
  ];
  const { settings } = readSettings({ system: "Be short.", temperature: "0,5", seed: "7" });
  expect(requestBody(turns, settings, "m")).toEqual({
    model: "m",
    messages: [
      { role: "system", content: "Be short." },
      { role: "user", content: "one" },
      { role: "user", content: "two" },
      { role: "assistant", content: "half" },
      { role: "user", content: "three" },
      {
        ...{ role: "assistant", content: "", reasoning_content: "why" },
        tool_calls: [{ id: "c1", type: "function", function: { name: "f", arguments: "{}" } }],
      },
      { role: "tool", tool_call_id: "c1", name: "f", content: "4" },
    ],
    temperature: 0.5,
    seed: 7,
  });
  expect(requestBody([{ role: "user", text: "x" }], plain, "")).toEqual({
    messages: [{ role: "user", content: "x" }],
  });
});

test("settings that cannot be used are named and left out", () => {
  const { settings, problems } = readSettings({
    ...{ temperature: "hot", top_p: "2", top_k: "1.5", max_tokens: "0", seed: "-1", min_p: "0.05" },
    ...{ tools: "{}", reasoning_effort: "low" },
  });
  expect(settings.fields).toEqual({ min_p: 0.05, reasoning_effort: "low" });
  expect(problems.map(({ name }) => name)).toEqual([
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "seed",
    "tools",
  ]);
  expect(problems[1]?.message).toBe("Top p takes a number from 0 to 1.");
  expect(readSettings({ tools: '[{"type":"function"}]' }).settings.fields).toEqual({
    tools: [{ type: "function" }],
  });
});

test("what storage holds is not trusted", () => {
  const good: Turn[] = [
    { role: "user", text: "a" },
    answered("b"),
    { role: "tool", callId: "c", name: "d", text: "e" },
  ];
  expect(readTurns(JSON.parse(JSON.stringify(good)))).toEqual(good);
  for (const bad of [null, 1, {}, "x"]) expect(readTurns(bad)).toEqual([]);
  const broken = [null, { role: "user" }, { role: "x", text: "" }, { role: "assistant", text: 1 }];
  expect(readTurns(broken)).toEqual([]);
  const calls = [{ ...answered("t"), toolCalls: [null, { id: 1 }], error: "no", figures: 3 }];
  expect(readTurns(calls)).toEqual([answered("t")]);
  const failed = answered("", { error: { message: "m", code: "c", requestId: "r" }, stopped: true });
  expect(readTurns([failed])).toEqual([failed]);
});

test("figures for people", () => {
  expect([0.42, 85, 999, 4200, 61_000].map(duration)).toEqual([
    "0.4 ms",
    "85 ms",
    "999 ms",
    "4.20 s",
    "1 min 1 s",
  ]);
  expect([0, 999, 8_004_032, 123e6, 7.94e9].map(bytes)).toEqual([
    "0 B",
    "999 B",
    "8.0 MB",
    "123 MB",
    "7.9 GB",
  ]);
  expect([0, 4.25, 99.96, 1234].map(rate)).toEqual(["0", "4.3", "100.0", "1,234"]);
  expect([13_600_000, 20.9e9, 512].map(magnitude)).toEqual(["13.6M", "20.9B", "512"]);
});
