import { expect, test } from "bun:test";
import { randomSource } from "./fuzz.ts";
import { collect, fuzzGemma4, joinedStream } from "./fuzz_calls.ts";
import { gemma4Format } from "./gemma4.ts";
import { gemma4Parser } from "./gemma4_parser.ts";
import { textOf } from "./pieces.ts";
import { gemmaTokenizer, markedTokenizer } from "./testing/vocabulary.ts";
import type { ChatMessage, ChatOptions, ChatTokenizer, ChatTool } from "./types.ts";

const tokenizer = gemmaTokenizer();
const format = gemma4Format(tokenizer, { emptyThought: false });
const large = gemma4Format(tokenizer, { emptyThought: true });
const thinks: ChatOptions = { templateArguments: { enable_thinking: true } };
const text = (messages: readonly ChatMessage[], options: ChatOptions = {}, of = format): string =>
  textOf(of.render(messages, options));
const user = (content: string): ChatMessage => ({ role: "user", content });
const called = (content: string, more: Partial<ChatMessage> = {}): ChatMessage => ({
  role: "assistant",
  content,
  toolCalls: [{ id: "1", name: "f", arguments: '{"b":[1,"x",{}],"a":null}' }],
  ...more,
});
const result = (content: string): ChatMessage => ({ role: "tool", content, toolCallId: "1" });
const Q = '<|"|>';

test("turns, with thinking on and off in small and large models", () => {
  const talk = [
    { role: "system", content: " S " },
    user(" a\n"),
    { role: "assistant", content: " b " },
    user("c"),
  ] as const;
  const head =
    "<bos><|turn>system\nS<turn|>\n<|turn>user\na<turn|>\n<|turn>model\nb<turn|>\n<|turn>user\nc<turn|>\n";
  expect(text(talk)).toBe(`${head}<|turn>model\n`);
  expect(text(talk, {}, large)).toBe(`${head}<|turn>model\n<|channel>thought\n<channel|>`);
  const on = head.replace("system\n", "system\n<|think|>\n");
  expect(text(talk, thinks)).toBe(`${on}<|turn>model\n`);
  expect(text(talk, thinks, large)).toBe(`${on}<|turn>model\n`);
  expect(text([user("a")])).toBe("<bos><|turn>user\na<turn|>\n<|turn>model\n");
  expect(text([user("a")], thinks)).toStartWith("<bos><|turn>system\n<|think|>\n<turn|>\n");
  const developer = [
    { role: "developer", content: "D" },
    { role: "system", content: "E" },
    user("a"),
  ] as const;
  expect(text(developer)).toStartWith("<bos><|turn>system\nD\n\nE<turn|>\n");
});

test("declarations of tools", () => {
  const tool: ChatTool = {
    name: "f",
    description: "Does é",
    parameters: {
      type: "object",
      properties: {
        b: { type: "string", description: "B", enum: ["x", "y"], default: 1 },
        A: { type: ["integer", "null"], nullable: true },
        c: {
          type: "array",
          items: {
            type: "object",
            properties: { q: { type: "number" } },
            required: ["q"],
            title: null,
            enum: [{ k: 1 }],
          },
        },
        d: { type: "object", properties: { type: { type: "boolean" } }, required: ["type"] },
        e: { type: "object", w: { type: "string" }, description: "free" },
      },
      required: ["b", "A"],
    },
  };
  const declared =
    `<|tool>declaration:f{description:${Q}Does é${Q},parameters:{properties:{` +
    `A:{nullable:true,type:${Q}['INTEGER', 'NULL']${Q}},` +
    `b:{description:${Q}B${Q},enum:[${Q}x${Q},${Q}y${Q}],type:${Q}STRING${Q}},` +
    `c:{items:{enum:[{${Q}k${Q}:1}],properties:{q:{type:${Q}NUMBER${Q}}},required:[${Q}q${Q}],type:${Q}OBJECT${Q}},type:${Q}ARRAY${Q}},` +
    `d:{properties:{type:{type:${Q}BOOLEAN${Q}}},required:[${Q}type${Q}],type:${Q}OBJECT${Q}},` +
    `e:{description:${Q}free${Q},properties:{w:{type:${Q}STRING${Q}}},type:${Q}OBJECT${Q}}` +
    `},required:[${Q}b${Q},${Q}A${Q}],type:${Q}OBJECT${Q}}}<tool|>`;
  const bare = `<|tool>declaration:g{description:${Q}${Q}}<tool|>`;
  expect(text([user("a")], { tools: [tool, { name: "g" }] })).toBe(
    `<bos><|turn>system\n${declared}${bare}<turn|>\n<|turn>user\na<turn|>\n<|turn>model\n`,
  );
});

const CALL = `<|tool_call>call:f{a:null,b:[1,${Q}x${Q},{}]}<tool_call|>`;
const RESULT = `<|tool_response>response:f{k:${Q}v${Q},n:[true]}<tool_response|>`;
const VALUE = `<|tool_response>response:f{value:${Q}[1]${Q}}<tool_response|>`;

test("calls and results stay in the model's turn", () => {
  const head = "<bos><|turn>user\na<turn|>\n<|turn>model\n";
  const object = result('{"n": [true], "k": "v"}');
  expect(text([user("a"), called(""), object])).toBe(head + CALL + RESULT);
  expect(text([user("a"), called(""), object], {}, large)).toBe(head + CALL + RESULT);
  expect(text([user("a"), called("", { reasoning: "hm" }), object], thinks)).toBe(
    `<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\na<turn|>\n<|turn>model\n<|channel>thought\nhm\n<channel|>${CALL}${RESULT}<|channel>thought\n`,
  );
  const done = [
    user("a"),
    called(""),
    result("[1]"),
    { role: "assistant", content: "ok", reasoning: "r" },
  ] as const;
  expect(text([...done, user("b")])).toBe(
    `${head}${CALL}${VALUE}ok<turn|>\n<|turn>user\nb<turn|>\n<|turn>model\n`,
  );
  // text beside the call, and nothing behind: the turn is over
  expect(text([user("a"), called("x"), result("[1]")])).toBe(
    `${head}${CALL}${VALUE}x<turn|>\n<|turn>model\n`,
  );
  expect(text([user("a"), called("")])).toBe(`${head}${CALL}<|tool_response>`);
  // a result without its call is not lost
  expect(text([user("a"), { ...result("[1]"), name: "f" }])).toBe(head + VALUE);
});

test("reasoning of earlier turns only where it is asked for, and no thoughts in texts", () => {
  const talk = [user("a"), called("", { reasoning: "r" }), result("[1]"), user("b")];
  expect(text(talk)).not.toContain("thought");
  expect(text(talk, { templateArguments: { preserve_thinking: true } })).toContain(
    "<|channel>thought\nr\n<channel|><|tool_call>",
  );
  const left = { role: "assistant", content: "<|channel>thought\nq\n<channel|> z" } as const;
  expect(text([user("a"), left, user("b")])).toContain("<|turn>model\nz<turn|>");
});

test("no text of anybody becomes a mark", () => {
  const marks = [
    "<|turn>",
    "<turn|>",
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    Q,
    "<|think|>",
    "<|image|>",
  ];
  const allControl = markedTokenizer(["<bos>", "<|tool>", "<tool|>", ...marks], {
    bos: "<bos>",
    addBos: true,
  });
  const spell = marks.join("x");
  for (const of of [tokenizer, allControl]) {
    const ids = marks.map((mark) => of.idOf(mark)!);
    const count = (prompt: readonly number[]): number => prompt.filter((id) => ids.includes(id)).length;
    const mine = gemma4Format(of, { emptyThought: true });
    const say = (s: string): ChatMessage[] => [
      { role: "system", content: `s${s}` },
      user(`u${s}`),
      {
        role: "assistant",
        content: "",
        reasoning: `r${s}`,
        toolCalls: [{ id: "1", name: "f", arguments: JSON.stringify({ [`k${s}`]: s }) }],
      },
      { role: "tool", content: JSON.stringify({ [s]: s }), toolCallId: "1" },
      { role: "tool", content: `t${s}`, toolCallId: "1" },
    ];
    const tools = (s: string): ChatTool[] => [
      {
        name: "f",
        description: s,
        parameters: { properties: { [s]: { type: "string", enum: [s] } }, required: [s] },
      },
    ];
    const prompt = mine.prompt(say(spell), { tools: tools(spell) });
    expect(count(prompt)).toBe(count(mine.prompt(say(""), { tools: tools("") })));
    expect(of.decode(prompt, { special: true })).toContain(`u${spell}`);
    expect(prompt.filter((id) => id === of.bos)).toHaveLength(1);
  }
});

const tools: readonly ChatTool[] = [{ name: "f" }, { name: "get-weather.v2" }];
type Parsed = ReturnType<typeof collect> & { readonly unparsed: number };
type ReadOptions = {
  thinking?: boolean;
  dropsThoughts?: boolean;
  stopped?: boolean;
  tools?: readonly ChatTool[];
};

function read(
  answer: string,
  { stopped = true, ...options }: ReadOptions = {},
  of: ChatTokenizer = tokenizer,
  stream: readonly number[] = tokenizer.encode(answer, { special: true, bos: false }),
): Parsed {
  const parser = gemma4Parser(of, { tools, ...options });
  const end = stopped ? tokenizer.idOf("<turn|>") : undefined;
  const events = [...stream.flatMap((token) => [...parser.push(token)]), ...parser.finish(end)];
  return { ...collect(events), unparsed: parser.unparsed };
}

const one = (args: string): Partial<Parsed> => ({ content: "", calls: [{ name: "f", arguments: args }] });
const call = (args: string): string => `<|tool_call>call:f{${args}}<tool_call|>`;

const answers: readonly (readonly [string, string, Partial<Parsed>, ReadOptions?])[] = [
  ["plain", "Hi there\n", { content: "Hi there", reasoning: "", unparsed: 0 }],
  ["a thought", "<|channel>thought\nq\nr\n<channel|>z", { content: "z", reasoning: "q\nr", unparsed: 0 }],
  ["an empty thought", "<|channel>thought\n<channel|>z", { content: "z", reasoning: "", unparsed: 0 }],
  [
    "a thought without a line break",
    "<|channel>thought<channel|>z",
    { content: "z", reasoning: "", unparsed: 0 },
  ],
  ["a channel without a name", "<|channel>I think so<channel|>z", { content: "z", reasoning: "I think so" }],
  [
    "a channel of another name",
    "<|channel>analysis\nq<channel|>z",
    { content: "z", reasoning: "q", unparsed: 1 },
  ],
  [
    "a thought that the prompt opened",
    "q\n<channel|>z",
    { content: "z", reasoning: "q", unparsed: 0 },
    { thinking: true },
  ],
  [
    "a thought that was cut",
    "<|channel>thought\nq and",
    { content: "", reasoning: "q and" },
    { stopped: false },
  ],
  [
    "a thought although thinking is off",
    "<|channel>thought\nq<channel|>z",
    { content: "z", reasoning: "" },
    { dropsThoughts: true },
  ],
  ["stray marks", `a<channel|>b<tool_call|>c${Q}d`, { content: "abcd", unparsed: 3 }],
  ["a call", call(`city:${Q}Paris${Q},n:3`), one('{"city":"Paris","n":3}')],
  ["no arguments", call(""), one("{}")],
  [
    "all kinds of values",
    call(`s:${Q}a"b\\c\n{d}${Q},o:{k:[1,-2.5e3,true,false,null],e:{},l:[]},t:${Q}${Q}`),
    one('{"s":"a\\"b\\\\c\\n{d}","o":{"k":[1,-2.5e3,true,false,null],"e":{},"l":[]},"t":""}'),
  ],
  ["white space between the parts", call(` a : 1 ,\n b : [ 1 , ${Q}x${Q} ] `), one('{"a":1,"b":[1,"x"]}')],
  [
    "keys in marks, names with signs",
    `<|tool_call>call:get-weather.v2{${Q}a:b${Q}:1}<tool_call|>`,
    { calls: [{ name: "get-weather.v2", arguments: '{"a:b":1}' }] },
  ],
  ["quotes of other kinds", call(`a:"x\\"y, z",b:'it is',"c":1`), one('{"a":"x\\"y, z","b":"it is","c":1}')],
  ["a value without quotes", call("a:Paris in spring,b:2"), one('{"a":"Paris in spring","b":2}')],
  ["numbers that JSON does not spell", call("a:+5,b:.5,c:007,d:5."), one('{"a":5,"b":0.5,"c":7,"d":5}')],
  ["other spellings of the three words", call("a:True,b:None,c:NULL"), one('{"a":true,"b":null,"c":null}')],
  ["missing braces", `<|tool_call>call:f{a:{b:[1,{c:2<tool_call|>`, one('{"a":{"b":[1,{"c":2}]}}')],
  ["a missing end of the call", `<|tool_call>call:f{a:${Q}x${Q}}`, one('{"a":"x"}')],
  ["a missing end of a string", `<|tool_call>call:f{a:${Q}x`, one('{"a":"x"}')],
  ["a missing value, a missing colon, a doubled comma", call("a:,b,,c:1"), one('{"a":null,"c":1}')],
  ["a missing comma", call(`a:${Q}x${Q} b:[${Q}y${Q}${Q}z${Q}]`), one('{"a":"x","b":["y","z"]}')],
  ["brackets that do not match", call("a:[1},b:2"), one('{"a":[1]}')],
  ["text behind the arguments", call("a:1} and more{"), one('{"a":1}')],
  ["a call without braces", "<|tool_call>call:f<tool_call|>", one("{}")],
  ["a call without its word", "<|tool_call>f{a:1}<tool_call|>", one('{"a":1}')],
  [
    "parallel calls behind a thought and text",
    `<|channel>thought\nq<channel|>I look.\n${call("a:1")}${call("a:2")}`,
    {
      reasoning: "q",
      content: "I look.",
      calls: [
        { name: "f", arguments: '{"a":1}' },
        { name: "f", arguments: '{"a":2}' },
      ],
      unparsed: 0,
    },
  ],
  [
    "a call before the end of another",
    `<|tool_call>call:f{a:1<|tool_call>call:f{}<tool_call|>`,
    {
      calls: [
        { name: "f", arguments: '{"a":1}' },
        { name: "f", arguments: "{}" },
      ],
    },
  ],
  [
    "marks in a string are text",
    call(`a:${Q}<|channel>x<channel|>${Q}`),
    one('{"a":"<|channel>x<channel|>"}'),
  ],
  [
    "no call at all",
    `<|tool_call>what {is ${Q}this${Q}}<tool_call|> b`,
    { content: `<|tool_call>what {is ${Q}this${Q}}<tool_call|> b`, calls: [] },
  ],
  [
    "an undeclared name is the client's to refuse",
    "<|tool_call>call:nobody{}<tool_call|>",
    { calls: [{ name: "nobody", arguments: "{}" }] },
  ],
  [
    "a made-up result is dropped",
    `${call("")}<|tool_response>response:f{value:1}<tool_response|>done`,
    { content: "done", calls: [{ name: "f", arguments: "{}" }] },
  ],
  ["a turn that the model opened", "a<turn|><|turn>model\nb", { content: "ab" }],
  [
    "a call that was cut stays open",
    `<|tool_call>call:f{a:${Q}rm -r /tmp`,
    one('{"a":"rm -r /tmp'),
    { stopped: false },
  ],
  ["a head that was cut", "x<|tool_call>call:f", { content: "x", calls: [] }, { stopped: false }],
];

for (const [name, answer, expected, options] of answers) {
  test(`an answer: ${name}`, () => {
    expect(read(answer, options)).toMatchObject(expected);
  });
}

test("without tools a call is text", () => {
  const written = `${call(`a:${Q}x${Q}`)} b`;
  expect(read(written, { tools: [] })).toMatchObject({ content: written, calls: [] });
});

test("a text split anywhere is read alike", () => {
  for (const [, answer, , options] of answers) {
    const stream = tokenizer.encode(answer, { special: true, bos: false });
    const once = joinedStream(tokenizer, stream, () => 1);
    const { unparsed: _, ...whole } = read(answer, options, once.tokenizer, once.stream);
    for (let at = 0; at <= stream.length; at++) {
      let n = 0;
      const split = joinedStream(tokenizer, stream, () => (n++ === at ? 0 : 1));
      const { unparsed: __, ...parts } = read(answer, options, split.tokenizer, split.stream);
      expect(parts).toEqual(whole);
    }
  }
});

test("strings of a call stream as they come, and where an answer is", () => {
  const parser = gemma4Parser(tokenizer, { tools });
  const seen: string[] = [];
  const feed = (part: string): string => {
    for (const token of tokenizer.encode(part, { special: true, bos: false })) {
      for (const event of parser.push(token))
        if (event.type === "toolCall") seen.push(event.name ?? event.arguments);
    }
    return parser.region!.kind;
  };
  expect(parser.region).toEqual({ kind: "content" });
  expect(feed("<|channel>thought\nq")).toBe("reasoning");
  expect(feed("<channel|>")).toBe("content");
  expect(feed("<|tool_call>call:f")).toBe("markup");
  expect(feed(`{a:${Q}xyz`)).toBe("arguments");
  expect(parser.region).toEqual({ kind: "arguments", tool: "f", notation: "gemma4" });
  expect(seen).toEqual(["f", "{", '"a":', '"', "x", "y", "z"]);
  expect(feed(`${Q}}`)).toBe("markup");
  expect(feed("<tool_call|>")).toBe("content");
  expect(parser.inContent).toBe(false);
});

test("an answer ends at its turn and where a tool must answer; it can be made to begin with a call", () => {
  const ids = ["<turn|>", "<eos>", "<|tool_response>"].map((mark) => tokenizer.idOf(mark)!);
  expect([...format.stopTokens].sort()).toEqual(ids.sort());
  expect(tokenizer.stopTokens.has(tokenizer.idOf("<|tool_response>")!)).toBe(true);
  expect(format.opening!({ kind: "call", tool: "f" })).toBe("<|tool_call>call:f{");
  expect(format.opening!({ kind: "call" })).toBe("<|tool_call>call:");
  expect(format.opening!({ kind: "content" }, thinks)).toBe("<|channel>thought\n<channel|>");
  const open = format.prompt([user("a"), called("", { reasoning: "r" }), result("[1]")], thinks);
  expect(format.opening!({ kind: "content" }, thinks, open)).toBe("\n<channel|>");
  expect(format.parser(thinks, open).region).toEqual({ kind: "reasoning" });
});

test("what is written for an answer is read back", () => {
  const random = randomSource(23);
  const letters = ["a", "é", "\n", " ", '"', "\\", "<", "{", "}", ",", ":", "[", "]", "'", "🙂", "null"];
  const word = (): string =>
    Array.from({ length: random(9) }, () => letters[random(letters.length)]).join("");
  const value = (depth: number): unknown => {
    const kind = random(depth > 2 ? 4 : 6);
    if (kind === 0) return word();
    if (kind === 1) return random(2000) / 8 - 100;
    if (kind === 2) return [true, false, null][random(3)];
    if (kind === 3) return random(1000);
    if (kind === 4) return Array.from({ length: random(4) }, () => value(depth + 1));
    return Object.fromEntries(Array.from({ length: random(4) }, (_, i) => [`k${i}`, value(depth + 1)]));
  };
  for (let i = 0; i < 300; i++) {
    const args = { s: word(), v: value(0), w: value(0) };
    const asked: ChatMessage = {
      role: "assistant",
      content: "",
      toolCalls: [{ name: "f", arguments: JSON.stringify(args) }],
    };
    const written = text([user("a"), asked]).split("<|turn>model\n")[1]!;
    const [got] = read(written).calls;
    expect(JSON.parse(got!.arguments)).toEqual(args);
  }
});

test("mutated streams", () => {
  expect(fuzzGemma4(tokenizer, 5, { count: 3000 }).cases).toBe(3000);
});
