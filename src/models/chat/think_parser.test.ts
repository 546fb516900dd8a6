import { expect, test } from "bun:test";
import { markedTokenizer } from "./testing/vocabulary.ts";
import { type PlainParserOptions, plainParser } from "./think_parser.ts";

const tokenizer = markedTokenizer(["<|im_end|>"], { userDefined: ["<think>", "</think>"] });

function read(text: string, options: PlainParserOptions) {
  const parser = plainParser(tokenizer, options);
  const tokens = tokenizer.encode(text, { special: true });
  const events = [...tokens.flatMap((token) => [...parser.push(token)]), ...parser.finish(undefined)];
  const join = (type: string): string =>
    events.map((event) => (event.type === type && "text" in event ? event.text : "")).join("");
  return { content: join("content"), reasoning: join("reasoning"), unparsed: parser.unparsed };
}

test("without think blocks every character is content", () => {
  expect(read("\n <think>a</think> b\n", { split: false })).toEqual({
    content: "\n <think>a</think> b\n",
    reasoning: "",
    unparsed: 0,
  });
});

test.each([
  ["a block of its own", "<think>\na b\n</think>\n\nc d\n", false, "c d\n", "a b"],
  ["opened by the prompt", "\na b\n</think>\n\nc", true, "c", "a b"],
  ["opened by the prompt and again", "<think>\na\n</think>\n\nc", true, "c", "a"],
  ["never closed", "<think>\na", false, "", "a"],
  ["empty", "<think>\n\n</think>\n\nc", false, "c", ""],
  ["none", "c", false, "c", ""],
])("a think block: %s", (_, text, thinking, content, reasoning) => {
  expect(read(text, { split: true, thinking })).toEqual({ content, reasoning, unparsed: 0 });
});

test("stray marks and control tokens are left out and counted", () => {
  expect(read("a</think>b<|im_end|>c", { split: true })).toEqual({
    content: "abc",
    reasoning: "",
    unparsed: 2,
  });
});

test("ids that no vocabulary has do no harm, and bytes of a character wait for the rest", () => {
  const parser = plainParser(tokenizer, { split: true });
  const [a, b] = Buffer.from("é");
  expect([-1, 1e9, Number.NaN].flatMap((token) => [...parser.push(token)])).toEqual([]);
  expect(parser.push(a!)).toEqual([]);
  expect(parser.inContent).toBe(true);
  expect(parser.push(b!)).toEqual([{ type: "content", text: "é" }]);
});
