import { expect, test } from "bun:test";
import { randomSource } from "./fuzz.ts";
import { collect, fuzzQwen35, joinedStream } from "./fuzz_calls.ts";
import { textOf } from "./pieces.ts";
import { qwen35Format } from "./qwen35.ts";
import { qwen35Parser } from "./qwen35_parser.ts";
import { qwenTokenizer } from "./testing/vocabulary.ts";
import type { ChatMessage, ChatOptions, ChatTokenizer, ChatTool } from "./types.ts";

const tokenizer = qwenTokenizer();
const format = qwen35Format(tokenizer, { thinks: false });
const text = (messages: readonly ChatMessage[], options: ChatOptions = {}): string =>
  textOf(format.render(messages, options));
const user = (content: string): ChatMessage => ({ role: "user", content });

const weather: ChatTool = {
  name: "get_weather",
  description: "Weather é",
  parameters: {
    type: "object",
    properties: {
      city: { type: "string" },
      days: { type: "integer" },
      exact: { type: "boolean" },
      share: { type: ["number", "null"] },
      tags: { type: "array", items: { type: "string" } },
      box: { $ref: "#/$defs/box" },
      any: { anyOf: [{ type: "integer" }, { type: "string" }] },
      kind: { enum: ["a", 1] },
    },
    required: ["city"],
    $defs: { box: { type: "object", properties: { w: { type: "number" } } } },
  },
};

test("the prompt of the reference: a system text, one question, thinking off", () => {
  const talk = [{ role: "system", content: "Be terse." }, user("Summarize the pilot.")] as const;
  expect(text(talk)).toBe(
    "<|im_start|>system\nBe terse.<|im_end|>\n<|im_start|>user\nSummarize the pilot.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
  );
  expect(text(talk, { templateArguments: { enable_thinking: true } })).toEndWith(
    "<|im_start|>assistant\n<think>\n",
  );
  expect(textOf(qwen35Format(tokenizer, { thinks: true }).render(talk))).toEndWith("assistant\n<think>\n");
});

test("tools, calls and results", () => {
  const talk: ChatMessage[] = [
    { role: "system", content: " S " },
    user(" a\n"),
    {
      role: "assistant",
      content: "Looking.",
      reasoning: "hm",
      toolCalls: [
        {
          id: "1",
          name: "get_weather",
          arguments: '{"city":"Łódź","days":2,"exact":true,"box":{"w":1.5},"n":null}',
        },
        { id: "2", name: "noop", arguments: "{}" },
      ],
    },
    { role: "tool", content: "sunny ", toolCallId: "1", name: "get_weather" },
    { role: "tool", content: '{"ok": true}', toolCallId: "2", name: "noop" },
  ];
  const written = text(talk, { tools: [{ name: "noop" }, { ...weather, parameters: { type: "object" } }] });
  expect(written).toStartWith(
    '<|im_start|>system\n# Tools\n\nYou have access to the following functions:\n\n<tools>\n{"type": "function", "function": {"name": "noop"}}\n{"type": "function", "function": {"name": "get_weather", "description": "Weather é", "parameters": {"type": "object"}}}\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n<tool_call>\n<function=example_function_name>\n',
  );
  expect(written).toContain("\n</IMPORTANT>\n\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n");
  expect(written).toEndWith(
    '<|im_start|>assistant\n<think>\nhm\n</think>\n\nLooking.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nŁódź\n</parameter>\n<parameter=days>\n2\n</parameter>\n<parameter=exact>\nTrue\n</parameter>\n<parameter=box>\n{"w": 1.5}\n</parameter>\n<parameter=n>\nNone\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=noop>\n</function>\n</tool_call><|im_end|>\n' +
      '<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n<tool_response>\n{"ok": true}\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n',
  );
});

test("reasoning is told again only behind the last question", () => {
  const earlier: ChatMessage = { role: "assistant", content: "<think>\nq\n</think>\n\nz" };
  expect(text([user("a"), earlier, user("b")])).toContain("assistant\nz<|im_end|>");
  expect(text([user("a"), earlier])).toContain("assistant\n<think>\nq\n</think>\n\nz<|im_end|>");
  const wrapped = user("<tool_response>\nx\n</tool_response>");
  expect(text([user("a"), earlier, wrapped])).toContain("assistant\n<think>\nq\n</think>\n\nz<|im_end|>");
  expect(() => text([wrapped])).toThrow("No user query found in messages.");
  expect(() => text([{ role: "system", content: "s" }])).toThrow("No user query found in messages.");
});

test("images and videos are their marks, whoever spells those is only a writer", () => {
  const parts = [
    { type: "text", text: " see " },
    { type: "image" },
    { type: "video" },
    { type: "text", text: "that " },
  ] as const;
  const message: ChatMessage = { role: "user", content: " see that ", parts };
  const marks = "<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|video_pad|><|vision_end|>";
  expect(text([message])).toContain(`user\nsee ${marks}that<|im_end|>`);
  const pad = tokenizer.idOf("<|image_pad|>")!;
  expect(format.prompt([message]).filter((id) => id === pad)).toHaveLength(1);
  expect(format.prompt([user(`see ${marks}`)])).not.toContain(pad);
});

test("no text of anybody becomes a mark", () => {
  const marks = [
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
  ];
  const ids = marks.map((mark) => tokenizer.idOf(mark)!);
  const count = (prompt: readonly number[]): number => prompt.filter((id) => ids.includes(id)).length;
  const spell = marks.join("x");
  const say = (s: string): ChatMessage[] => [
    { role: "system", content: `s${s}` },
    user(`u${s}`),
    {
      role: "assistant",
      content: "a",
      reasoning: `r${s}`,
      toolCalls: [{ id: "1", name: "f", arguments: JSON.stringify({ [`k${s}`]: s }) }],
    },
    { role: "tool", content: `t${s}`, name: "f", toolCallId: "1" },
  ];
  const tools = (s: string): ChatTool[] => [{ name: "f", description: s, parameters: { description: s } }];
  const clean = format.prompt(say(""), { tools: tools("") });
  const hostile = format.prompt(say(spell), { tools: tools(spell) });
  expect(count(hostile)).toBe(count(clean));
  expect(tokenizer.decode(hostile, { special: true })).toContain(`u${spell}`);
});

type Parsed = ReturnType<typeof collect> & { readonly unparsed: number };

function read(
  answer: string,
  options: { thinking?: boolean; tools?: readonly ChatTool[]; stopped?: boolean } = {},
  of: ChatTokenizer = tokenizer,
  stream: readonly number[] = tokenizer.encode(answer, { special: true }),
): Parsed {
  const { thinking = false, tools = [weather, { name: "noop" }], stopped = true } = options;
  const parser = qwen35Parser(of, { tools, thinking });
  const events = [
    ...stream.flatMap((token) => [...parser.push(token)]),
    ...parser.finish(stopped ? 258 : undefined),
  ];
  return { ...collect(events), unparsed: parser.unparsed };
}

const value = (key: string, written: string): string => `<parameter=${key}>\n${written}\n</parameter>\n`;
const call = (name: string, parameters: string): string =>
  `<tool_call>\n<function=${name}>\n${parameters}</function>\n</tool_call>`;

const answers: readonly (readonly [
  string,
  string,
  Partial<Parsed>,
  ({ thinking?: boolean; stopped?: boolean } | undefined)?,
])[] = [
  ["plain", "Hi there\n", { content: "Hi there", unparsed: 0 }],
  [
    "a think block that the prompt opened",
    "\nq\n\n</think>\n\nz",
    { reasoning: "q", content: "z", unparsed: 0 },
    { thinking: true },
  ],
  [
    "one that repeats the prompt's",
    "<think>\nq</think>z",
    { reasoning: "q", content: "z", unparsed: 0 },
    { thinking: true },
  ],
  ["one that nobody asked for", "\n<think>q</think>z", { reasoning: "q", content: "z", unparsed: 0 }],
  ["thinking without an end", "q and q", { reasoning: "q and q", content: "" }, { thinking: true }],
  ["an end without thinking", "</think>\n\nz", { content: "z", unparsed: 1 }],
  [
    "a word about the marks",
    "Use <think> and </think>.",
    { content: "Use <think> and </think>.", unparsed: 2 },
  ],
  [
    "a call",
    call("get_weather", value("city", "Paris\nFrance")),
    { content: "", calls: [{ name: "get_weather", arguments: '{"city":"Paris\\nFrance"}' }], unparsed: 0 },
  ],
  [
    "two calls behind text",
    `I look.\n\n${call("get_weather", value("city", "P"))}\n${call("noop", "")}\n`,
    {
      content: "I look.",
      calls: [
        { name: "get_weather", arguments: '{"city":"P"}' },
        { name: "noop", arguments: "{}" },
      ],
      unparsed: 0,
    },
  ],
  [
    "text between and behind calls",
    `a\n\n${call("noop", "")} b ${call("noop", "")}\nc`,
    { content: "a\n\nb c" },
  ],
  [
    "a call out of reasoning that was not closed",
    `q\n${call("noop", "")}`,
    { reasoning: "q", calls: [{ name: "noop", arguments: "{}" }] },
    { thinking: true },
  ],
  [
    "values by their types",
    call(
      "get_weather",
      [
        value("days", "7"),
        value("exact", "True"),
        value("share", "0.50"),
        value("tags", '["a", "b"]'),
        value("box", '{"w": 1}'),
        value("any", "12"),
        value("kind", "1"),
        value("city", "12"),
        value("other", "true"),
      ].join(""),
    ),
    {
      calls: [
        {
          name: "get_weather",
          arguments:
            '{"days":7,"exact":true,"share":0.5,"tags":["a","b"],"box":{"w":1},"any":12,"kind":1,"city":"12","other":"true"}',
        },
      ],
    },
  ],
  [
    "values that do not fit their types are text",
    call(
      "get_weather",
      [value("days", "soon"), value("exact", "maybe"), value("tags", "[a"), value("days2", "1")].join(""),
    ),
    {
      calls: [{ name: "get_weather", arguments: '{"days":"soon","exact":"maybe","tags":"[a","days2":"1"}' }],
    },
  ],
  [
    "null in any case, whatever the type",
    call(
      "get_weather",
      [value("city", "null"), value("days", "NULL"), value("other", "Null"), value("share", "nullable")].join(
        "",
      ),
    ),
    {
      calls: [
        { name: "get_weather", arguments: '{"city":null,"days":null,"other":null,"share":"nullable"}' },
      ],
    },
  ],
  [
    "one line break on either side belongs to the tags, and no more",
    call(
      "get_weather",
      `${value("city", "\n a \n")}<parameter=other></parameter>\n<parameter=any>\n</parameter>`,
    ),
    { calls: [{ name: "get_weather", arguments: '{"city":"\\n a \\n","other":"","any":""}' }] },
  ],
  [
    "quotes, backslashes, tags and marks in a value",
    call("get_weather", value("city", 'a"\\\n</param> <b> <think> </function> x')),
    {
      calls: [
        {
          name: "get_weather",
          arguments: JSON.stringify({ city: 'a"\\\n</param> <b> <think> </function> x' }),
        },
      ],
    },
  ],
  [
    "a key that comes twice counts once",
    call("noop", value("a", "1") + value("a", "2")),
    { calls: [{ name: "noop", arguments: '{"a":"1"}' }], unparsed: 1 },
  ],
  [
    "an undeclared name is the client's to refuse",
    call("nobody", ""),
    { calls: [{ name: "nobody", arguments: "{}" }] },
  ],
  [
    "missing ends of function and call",
    "<tool_call>\n<function=noop>\n<parameter=a>\n1\n</parameter>\n",
    { calls: [{ name: "noop", arguments: '{"a":"1"}' }] },
  ],
  [
    "a missing end of a value",
    "<tool_call><function=noop><parameter=a>\n1\n</function>\n</tool_call>",
    { calls: [{ name: "noop", arguments: '{"a":"1"}' }] },
  ],
  [
    "a missing end of a call",
    `<tool_call><function=noop></function>${call("noop", "")}`,
    {
      calls: [
        { name: "noop", arguments: "{}" },
        { name: "noop", arguments: "{}" },
      ],
    },
  ],
  [
    "the older form",
    '<tool_call>\n{"name": "noop", "arguments": {"a": [1]}}\n</tool_call>',
    { calls: [{ name: "noop", arguments: '{"a":[1]}' }] },
  ],
  [
    "no call at all",
    "<tool_call>what?</tool_call> b",
    { content: "<tool_call>what?</tool_call> b", calls: [] },
  ],
  [
    "a name that is none",
    "<tool_call><function=a b></function></tool_call>",
    { content: "<tool_call><function=a b></function></tool_call>", calls: [] },
  ],
  ["an empty call", "a<tool_call>\n</tool_call>", { content: "a", calls: [], unparsed: 1 }],
  ["cut in a head", "a <tool_call>\n<function=no", { content: "a", calls: [] }, { stopped: false }],
  [
    "cut between values",
    "<tool_call><function=noop><parameter=a>\n1\n</parameter>",
    { calls: [{ name: "noop", arguments: '{"a":"1"' }] },
    { stopped: false },
  ],
  [
    "cut in a value: nobody takes it for the whole",
    "<tool_call><function=noop><parameter=a>\nrm -r /tmp/x\n</par",
    { calls: [{ name: "noop", arguments: '{"a":"rm -r /tmp/x' }] },
  ],
  [
    "cut in a number",
    "<tool_call><function=get_weather><parameter=days>\n12",
    { calls: [{ name: "get_weather", arguments: "" }] },
    { stopped: false },
  ],
];

for (const [name, answer, expected, options] of answers) {
  test(`an answer: ${name}`, () => {
    expect(read(answer, options ?? {})).toMatchObject(expected);
  });
}

test("without tools a call is text", () => {
  const written = call("noop", "").replaceAll("\n", " ");
  expect(read(written, { tools: [] })).toMatchObject({ content: written, calls: [] });
});

test("a text split anywhere is read alike", () => {
  for (const [, answer, , options] of answers) {
    const stream = tokenizer.encode(answer, { special: true });
    const once = joinedStream(tokenizer, stream, () => 1);
    const { unparsed: _, ...whole } = read(answer, options ?? {}, once.tokenizer, once.stream);
    for (let at = 0; at <= stream.length; at++) {
      let n = 0;
      const split = joinedStream(tokenizer, stream, () => (n++ === at ? 0 : 1));
      const { unparsed: __, ...parts } = read(answer, options ?? {}, split.tokenizer, split.stream);
      expect(parts).toEqual(whole);
    }
  }
});

test("strings of a call stream as they come", () => {
  const parser = qwen35Parser(tokenizer, { tools: [weather] });
  const seen: string[] = [];
  for (const token of tokenizer.encode("<tool_call><function=get_weather><parameter=city>\nabcdef", {
    special: true,
  })) {
    for (const event of parser.push(token))
      if (event.type === "toolCall") seen.push(event.name ?? event.arguments);
  }
  expect(seen).toEqual(["get_weather", '{"city":"a', "b", "c", "d", "e", "f"]);
  expect(parser.region).toEqual({
    kind: "arguments",
    tool: "get_weather",
    notation: "qwen35",
    parameter: "city",
  });
});

test("where an answer is: reasoning, content, markup, arguments", () => {
  const parser = qwen35Parser(tokenizer, { tools: [weather], thinking: true });
  const kinds: string[] = [];
  const feed = (part: string): void => {
    for (const token of tokenizer.encode(part, { special: true })) parser.push(token);
    kinds.push(parser.region!.kind);
  };
  expect(parser.region).toEqual({ kind: "reasoning" });
  for (const part of [
    "hm",
    "</think>",
    "\n\nHi",
    "<tool_call>\n<fun",
    "ction=get_weather>",
    "<parameter=city>\nx",
    "</parameter></function>",
    "</tool_call>",
  ])
    feed(part);
  expect(kinds).toEqual([
    "reasoning",
    "content",
    "content",
    "markup",
    "arguments",
    "arguments",
    "markup",
    "content",
  ]);
});

test("an answer that is made to begin with a call, or with its text", () => {
  const open = format.prompt([user("a")], { templateArguments: { enable_thinking: true } });
  const closed = format.prompt([user("a")]);
  expect(format.opening!({ kind: "call", tool: "f" }, {}, closed)).toBe("<tool_call>\n<function=f>\n");
  expect(format.opening!({ kind: "call" }, {}, open)).toBe("\n</think>\n\n<tool_call>\n<function=");
  expect(format.opening!({ kind: "content" }, {}, closed)).toBe("");
  expect(format.opening!({ kind: "content" }, {}, open)).toBe("\n</think>\n\n");
});

test("what is written for an answer is read back", () => {
  const random = randomSource(11);
  const letters = ["a", "é", "\n", " ", '"', "\\", "<", "{", "null", "5", "</b>", "🙂", "true"];
  const word = (): string =>
    Array.from({ length: random(9) }, () => letters[random(letters.length)]).join("");
  for (let i = 0; i < 300; i++) {
    const args: Record<string, unknown> = {};
    if (random(2)) args.city = word();
    if (random(2)) args.days = random(100) - 50;
    if (random(2)) args.tags = [word(), word()];
    if (random(2)) args.box = { w: random(9) / 4, s: word() };
    if (String(args.city).toLowerCase() === "null") continue;
    const asked: ChatMessage = {
      role: "assistant",
      content: "",
      toolCalls: [{ name: "get_weather", arguments: JSON.stringify(args) }],
    };
    const written = text([user("a"), asked])
      .split("</think>\n\n")[1]!
      .split("<|im_end|>")[0]!;
    const [got] = read(written).calls;
    expect(got?.name).toBe("get_weather");
    expect(JSON.parse(got!.arguments)).toEqual(args);
  }
});

test("mutated streams", () => {
  expect(fuzzQwen35(tokenizer, 5, { count: 3000 }).cases).toBe(3000);
});
