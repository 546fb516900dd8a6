import { expect, test } from "bun:test";
import type { ParsedEvent } from "../models/chat/index.ts";
import { inlineReasoning } from "./inline_reasoning.ts";

function inlined(batches: readonly (readonly ParsedEvent[])[]): ParsedEvent[] {
  let at = 0;
  const parser = inlineReasoning(
    { push: () => batches[at++] ?? [], finish: () => [], inContent: false, unparsed: 0 },
    { open: "<", close: ">" },
  );
  return [...batches.flatMap(() => parser.push(0)), ...parser.finish(undefined)];
}

test("marks stand around each stretch of reasoning", () => {
  const text = inlined([
    [{ type: "reasoning", text: "a" }],
    [],
    [
      { type: "reasoning", text: "b" },
      { type: "content", text: "c" },
    ],
    [{ type: "content", text: "d" }],
    [{ type: "reasoning", text: "e" }],
  ]);
  expect(text.map((event) => (event.type === "content" ? event.text : event.type)).join("")).toBe(
    "<ab>cd<e>",
  );
});

test("a tool call closes reasoning", () => {
  const call = { type: "toolCall", index: 0, name: "f", arguments: "" } as const;
  expect(inlined([[{ type: "reasoning", text: "a" }], [call]])).toEqual([
    { type: "content", text: "<a" },
    { type: "content", text: ">" },
    call,
  ]);
});
