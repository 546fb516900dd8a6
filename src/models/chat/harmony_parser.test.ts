import { expect, test } from "bun:test";
import { fuzzHarmony } from "./fuzz.ts";
import { harmonyParser } from "./harmony_parser.ts";
import { toolNames } from "./harmony_tools.ts";
import { HARMONY_CONTROLS, markedTokenizer } from "./testing/vocabulary.ts";

const tokenizer = markedTokenizer(HARMONY_CONTROLS);

type Answer = { content: string; reasoning: string; calls: { name: string; arguments: string }[] };

function read(tokens: readonly number[], tools: readonly string[] = []): Answer & { unparsed: number } {
  const parser = harmonyParser(tokenizer, toolNames(tools.map((name) => ({ name }))));
  const answer: Answer = { content: "", reasoning: "", calls: [] };
  for (const event of [...tokens.flatMap((token) => [...parser.push(token)]), ...parser.finish(undefined)]) {
    if (event.type === "content") answer.content += event.text;
    else if (event.type === "reasoning") answer.reasoning += event.text;
    else {
      if (event.name !== undefined) answer.calls.push({ name: event.name, arguments: "" });
      answer.calls[event.index]!.arguments += event.arguments;
    }
  }
  return { ...answer, unparsed: parser.unparsed };
}

function tokens(text: string): number[] {
  return tokenizer.encode(text, { special: true });
}

const clean = { reasoning: "", calls: [], unparsed: 0 };

test("the usual answer: reasoning, then content", () => {
  const text =
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>";
  expect(read(tokens(text))).toEqual({ content: "4", reasoning: "Hm.", calls: [], unparsed: 0 });
});

const calls: readonly string[] = [
  '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":1}<|call|>',
  '<|channel|>commentary to=functions.f<|constrain|>json<|message|>{"a":1}<|call|>',
  '<|channel|>commentary to=functions.f json<|message|>{"a":1}<|call|>',
  '<|channel|>commentary to=functions.f code<|message|>{"a":1}<|call|>',
  '<|channel|>commentary to=functions.f<|message|>{"a":1}<|call|>',
  '<|channel|>analysis to=functions.f<|message|>{"a":1}<|call|>',
  ' to=functions.f<|channel|>commentary json<|message|>{"a":1}<|call|>',
  ' to=functions.f<|channel|>commentary <|constrain|>json<|message|>{"a":1}<|call|>',
  'to=functions.f<|message|>{"a":1}<|call|>',
  '<|channel|>commentary functions.f<|message|>{"a":1}<|call|>',
  '<|channel|>commentary to= functions.f<|message|>{"a":1}<|call|>',
  '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"a":1}<|call|>',
  '<|channel|>commentary to=assistant<|channel|>commentary to=functions.f<|message|>{"a":1}<|call|>',
  '<|channel|>commentary to=functions.f<|channel|>commentary json<|message|>{"a":1}<|call|>',
];

test.each(calls)("a tool call written as %s", (text) => {
  expect(read(tokens(text), ["f"])).toEqual({
    ...clean,
    content: "",
    calls: [{ name: "f", arguments: '{"a":1}' }],
  });
});

test("a call's name comes once, with the first piece", () => {
  const parser = harmonyParser(tokenizer, toolNames([{ name: "get-weather" }]));
  const text = "<|channel|>commentary to=functions.get_weather json<|message|>{}<|call|>";
  const events = tokens(text).flatMap((token) => [...parser.push(token)]);
  expect(events).toEqual([
    { type: "toolCall", index: 0, name: "get-weather", arguments: "" },
    { type: "toolCall", index: 0, arguments: "{" },
    { type: "toolCall", index: 0, arguments: "}" },
  ]);
});

const shapes: readonly (readonly [string, string, Partial<Answer & { unparsed: number }>])[] = [
  ["no markup", "Hello there", { content: "Hello there", unparsed: 11 }],
  ["no markup, a word of headers", "json", { content: "json", unparsed: 4 }],
  ["no markup, beginning like a header", "final answer: 4", { content: "final answer: 4", unparsed: 15 }],
  ["channel and message only", "<|channel|>final<|message|>Hi", { content: "Hi" }],
  ["message only", "<|message|>Hi<|return|>", { content: "Hi" }],
  ["channel mark missing", "analysis<|message|>Hm<|end|>", { reasoning: "Hm", content: "" }],
  [
    "start mark missing",
    "<|channel|>analysis<|message|>a<|end|>assistant<|channel|>final<|message|>b",
    { reasoning: "a", content: "b" },
  ],
  [
    "end mark missing",
    "<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b",
    { reasoning: "a", content: "b" },
  ],
  [
    "end and start missing",
    "<|channel|>analysis<|message|>a<|channel|>final<|message|>b",
    { reasoning: "a", content: "b" },
  ],
  ["stray channel", "<|channel|>commentary<|channel|>final<|message|>b", { content: "b" }],
  [
    "stray channel with recipient",
    "<|channel|>commentary to=assistant<|channel|>final<|message|>b",
    { content: "b" },
  ],
  [
    "two analyses",
    "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>",
    { reasoning: "ab", content: "" },
  ],
  ["preamble", "<|channel|>commentary<|message|>Looking.<|end|>", { content: "Looking." }],
  [
    "message mark missing",
    "<|channel|>final Hello, how are you today?\nFine.",
    { content: "Hello, how are you today?\nFine." },
  ],
  [
    "message mark missing in reasoning",
    "<|channel|>analysis We need to think about this one and then some more.<|end|>",
    { reasoning: "We need to think about this one and then some more.", content: "" },
  ],
  ["stop inside a header", "<|channel|>final<|end|>Hello", { content: "Hello" }],
  ["cut inside a header", "<|channel|>fin", { content: "", unparsed: 0 }],
  ["cut after start", "<|channel|>final<|message|>a<|end|><|start|>assist", { content: "a" }],
  ["unknown channel", "<|channel|>thoughts<|message|>x", { content: "x", unparsed: 1 }],
  ["unknown recipient", "<|channel|>commentary to=nobody<|message|>x", { content: "x", unparsed: 1 }],
  [
    "built-in tool nobody runs",
    "<|channel|>analysis to=python code<|message|>1+1<|call|>",
    { content: "", unparsed: 3 },
  ],
  ["another's turn", "<|start|>user<|message|>hi<|end|>", { content: "", unparsed: 2 }],
  [
    "marks inside text",
    "<|channel|>final<|message|>a<|message|>b<|constrain|>c<|reserved_200013|>d",
    { content: "abcd", unparsed: 3 },
  ],
  ["nothing", "", { content: "" }],
  ["only marks", "<|end|><|end|><|start|><|start|><|channel|><|message|><|return|>", { content: "" }],
];

test.each(shapes)("%s", (_, text, expected) => {
  expect(read(tokens(text))).toMatchObject(expected);
});

test("text that spells a mark is text", () => {
  const spelled = tokenizer.encode("<|end|><|start|>assistant<|channel|>analysis<|message|>x", {
    special: false,
  });
  const answer = read([...tokens("<|channel|>final<|message|>"), ...spelled]);
  expect(answer).toEqual({
    ...clean,
    content: "<|end|><|start|>assistant<|channel|>analysis<|message|>x",
  });
});

test("bytes of an unfinished character wait", () => {
  const parser = harmonyParser(tokenizer, toolNames());
  for (const token of tokens("<|channel|>final<|message|>")) parser.push(token);
  const [a, b, c, d] = Buffer.from("🙂", "utf8");
  expect([a!, b!, c!].flatMap((token) => [...parser.push(token)])).toEqual([]);
  expect(parser.inContent).toBe(true);
  expect(parser.push(d!)).toEqual([{ type: "content", text: "🙂" }]);
  parser.push(a!);
  expect(parser.finish(undefined)).toEqual([{ type: "content", text: "\uFFFD" }]);
});

test("plain text streams as soon as it cannot be a header", () => {
  const parser = harmonyParser(tokenizer, toolNames());
  expect(parser.push(0x48)).toEqual([{ type: "content", text: "H" }]);
});

test("ids that no vocabulary has are counted, not thrown", () => {
  expect(read([-1, 1e9, Number.NaN, 1.5, ...tokens("<|channel|>final<|message|>x")])).toMatchObject({
    content: "x",
    unparsed: 4,
  });
});

test("finish reads the stop token's meaning but needs none", () => {
  const parser = harmonyParser(tokenizer, toolNames());
  for (const token of tokens("<|channel|>final<|message|>x")) parser.push(token);
  expect(parser.finish(tokenizer.idOf("<|return|>"))).toEqual([]);
  expect(parser.finish(undefined)).toEqual([]);
});

test("mutated streams: nothing thrown, every character accounted for", () => {
  const count = fuzzHarmony(tokenizer, 7, { count: 4000 });
  expect(count.cases).toBe(4000);
  expect(count.unparsed).toBeGreaterThan(0);
});
