import { expect, test } from "bun:test";
import { type GenerationEvent, generate } from "./generation.ts";
import { END, type Script, scriptedModel } from "./http/testing/scripted.ts";
import type { GenerateRequest } from "./protocol.ts";

async function events(
  script: Script,
  request: Partial<GenerateRequest> = {},
  stops: readonly string[] = [],
): Promise<{ all: GenerationEvent[]; text: (choice: number) => string }> {
  const model = scriptedModel(script);
  const full = { prompt: [1, 2, 3], sampling: {}, stopTokens: [END], choices: 1, ...request };
  const plan = { request: full, stops, parser: () => model.chat.parser({}) };
  const all: GenerationEvent[] = [];
  for await (const event of generate(model.engine, plan, { signal: new AbortController().signal }))
    all.push(event);
  const text = (choice: number): string =>
    all.map((e) => (e.type === "content" && e.choice === choice ? e.text : "")).join("");
  return { all, text };
}

const finishes = (all: readonly GenerationEvent[]) => all.filter((event) => event.type === "finish");

test("reasoning, content and counts", async () => {
  const { all, text } = await events({ answers: ["<|think|>why é<|answer|>because"] });
  expect(text(0)).toBe("because");
  expect(all.map((e) => (e.type === "reasoning" ? e.text : "")).join("")).toBe("why é");
  expect(finishes(all)).toEqual([
    { type: "finish", choice: 0, reason: "stop", cause: "end_of_sequence_token" },
  ]);
  // "é" is two tokens and complete with the second; two markers and the stop token count too.
  expect(all.at(-1)).toMatchObject({ type: "end", summary: { completionTokens: 16, reasoningTokens: 5 } });
});

test("a stop string ends its choice and lets the other go on", async () => {
  const { all, text } = await events(
    { answers: ["one STOP two", "longer than the first one"] },
    { choices: 2 },
    ["STOP"],
  );
  expect(text(0)).toBe("one ");
  expect(text(1)).toBe("longer than the first one");
  expect(finishes(all)).toEqual([
    { type: "finish", choice: 0, reason: "stop", cause: "stop_sequence", matchedStop: "STOP" },
    { type: "finish", choice: 1, reason: "stop", cause: "end_of_sequence_token" },
  ]);
});

test("a stop string that never completes comes out at the end", async () => {
  const { all, text } = await events({ answers: ["abc STO"] }, {}, ["STOP"]);
  expect(text(0)).toBe("abc STO");
  expect(finishes(all)).toHaveLength(1);
});

test("stop strings do not look into reasoning", async () => {
  const { text } = await events({ answers: ["<|think|>STOP here<|answer|>fine"] }, {}, ["STOP"]);
  expect(text(0)).toBe("fine");
});

test("records follow the text that a stop string cut", async () => {
  const { all } = await events({ answers: ["<|think|>x<|answer|>ab STOP"] }, { topLogprobs: 1 }, ["STOP"]);
  const records = all.flatMap((e) => (e.type === "content" ? (e.records ?? []) : []));
  expect(String.fromCharCode(...records.map(({ token }) => token))).toBe("ab ");
  expect(records.map(({ offset }) => offset)).toEqual([0, 1, 2]);
});

test("the cap and the context end with length", async () => {
  const capped = await events({ answers: ["abcdef"] }, { maxTokens: 3 });
  expect(capped.text(0)).toBe("abc");
  expect(finishes(capped.all)).toMatchObject([{ reason: "length", cause: "max_output_tokens" }]);
  const full = await events({ answers: ["abcdefgh"], contextLength: 8 });
  expect(full.text(0)).toBe("abcde");
  expect(finishes(full.all)).toMatchObject([{ reason: "length", cause: "context_limit" }]);
});
