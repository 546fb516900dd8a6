import { expect, test } from "bun:test";
import { agreesWith, isProbed } from "./agreement.ts";
import { textOf } from "./pieces.ts";
import { renderQwen35 } from "./qwen35.ts";
import { type ChatModel, chatFormatFor } from "./select.ts";
import type { ChatTemplate } from "./template.ts";
import { gemmaTokenizer, qwenTokenizer } from "./testing/vocabulary.ts";
import type { ChatMessage, ChatOptions, ChatTool } from "./types.ts";

const gemma = gemmaTokenizer();
const qwen = qwenTokenizer();
const user = (content: string): ChatMessage => ({ role: "user", content });

function formatFor(
  architecture: string,
  settings: Readonly<Record<string, unknown>> = {},
  more: Partial<ChatModel> = {},
) {
  const tokenizer = architecture.startsWith("gemma") ? gemma : qwen;
  return chatFormatFor({
    architecture,
    tokenizer,
    template: undefined,
    setting: (key) => settings[key],
    ...more,
  });
}

test("the family is known by its architecture, in files of both kinds", () => {
  for (const name of ["gemma4", "gemma4_text"]) expect(formatFor(name).name).toBe("gemma4");
  for (const name of ["qwen35", "qwen35moe", "qwen3_5_text", "qwen3_5_moe_text"])
    expect(formatFor(name).name).toBe("qwen35");
  expect(formatFor("qwen3").name).toBe("chatml");
  expect(formatFor("gemma4", {}, { template: " \n" }).name).toBe("gemma4");
});

test("sizes that were trained otherwise: thinking by default, an empty thought where it is off", () => {
  const end = (architecture: string, settings: Readonly<Record<string, unknown>>): string =>
    textOf(formatFor(architecture, settings).render([user("a")])).split("a")[1]!;
  const thought = "<channel|>";
  expect(end("gemma4", { "gemma4.embedding_length_per_layer_input": 256 })).not.toEndWith(thought);
  expect(textOf(formatFor("gemma4", { hidden_size_per_layer_input: 256 }).render([user("a")]))).not.toEndWith(
    thought,
  );
  expect(
    textOf(formatFor("gemma4", { "gemma4.embedding_length_per_layer_input": 0 }).render([user("a")])),
  ).toEndWith(thought);
  const thinks = (architecture: string, settings: Readonly<Record<string, unknown>>): boolean =>
    textOf(formatFor(architecture, settings).render([user("a")])).endsWith("<think>\n");
  expect(thinks("qwen35", { "qwen35.embedding_length": 1024 })).toBe(false);
  expect(thinks("qwen3_5_text", { hidden_size: 2048 })).toBe(false);
  expect(thinks("qwen35", { "qwen35.embedding_length": 2560 })).toBe(true);
  expect(thinks("qwen35moe", { "qwen35moe.embedding_length": 2048 })).toBe(true);
});

/** Small templates with what the published ones do: tools, calls, results in the message that called, a thought switch. */
const GEMMA = `{{ bos_token }}{% if tools %}<|turn>system
{% for tool in tools %}<|tool>declaration:{{ tool.function.name }}{description:<|"|>{{ tool.function.description }}<|"|>}<tool|>{% endfor %}<turn|>
{% endif %}{% for m in messages %}<|turn>{{ 'model' if m.role == 'assistant' else m.role }}
{% for call in m.tool_calls or [] %}<|tool_call>call:{{ call.function.name }}{{ '{' }}{% for k, v in call.function.arguments | dictsort %}{{ k }}:<|"|>{{ v }}<|"|>{% endfor %}{{ '}' }}<tool_call|>{% endfor %}{% for r in m.tool_responses or [] %}<|tool_response>response:{{ r.name }}:{{ r.response if r.response is string else r.response.k }}<tool_response|>{% endfor %}{{ m.content | trim }}<turn|>
{% endfor %}`;
const QWEN = `{% for tool in tools or [] %}<tools>{{ tool | tojson }}</tools>
{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'tool' %}<tool_response>{{ m.content }}</tool_response>{% elif m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{% for call in m.tool_calls or [] %}<tool_call>
<function={{ call.function.name }}></tool_call>{% endfor %}<|im_end|>
{% endfor %}<|im_start|>assistant
<think>
{% if enable_thinking is defined and not enable_thinking %}
</think>

{% endif %}`;

const talk = (s: string): ChatMessage[] => [
  user(`u${s}`),
  {
    role: "assistant",
    content: "",
    toolCalls: [{ id: "1", name: "f", arguments: JSON.stringify({ a: `v${s}` }) }],
  },
  { role: "tool", content: JSON.stringify({ k: `r${s}` }), toolCallId: "1", name: "f" },
];
const tools = (s: string): ChatTool[] => [{ name: "f", description: `d${s}` }];

test("a file's template writes, with tools and results; the answer is read by the family's parser", () => {
  const gemma4 = formatFor("gemma4", {}, { template: GEMMA });
  expect(gemma4.capabilities).toMatchObject({ tools: true, reasoning: true });
  expect(textOf(gemma4.render(talk(""), { tools: tools("") }))).toBe(
    '<bos><|turn>system\n<|tool>declaration:f{description:<|"|>d<|"|>}<tool|><turn|>\n<|turn>user\nu<turn|>\n<|turn>model\n<|tool_call>call:f{a:<|"|>v<|"|>}<tool_call|><|tool_response>response:f:r<tool_response|><turn|>\n<|turn>model\n',
  );
  const qwen35 = formatFor("qwen35", {}, { template: QWEN });
  const options = { tools: tools("") };
  const prompt = qwen35.prompt(talk(""), options);
  expect(textOf(qwen35.render(talk(""), options))).toStartWith(
    '<tools>{"type": "function", "function": {"name": "f", "description": "d"}}</tools>\n',
  );
  expect(qwen35.parser(options, prompt).region).toEqual({ kind: "reasoning" });
  const off = { ...options, templateArguments: { enable_thinking: false } };
  expect(qwen35.parser(off, qwen35.prompt(talk(""), off)).region).toEqual({ kind: "content" });
  expect(qwen35.reads("enable_thinking")).toBe(true);
  expect(qwen35.opening!({ kind: "call", tool: "f" }, options, prompt)).toBe(
    "\n</think>\n\n<tool_call>\n<function=f>\n",
  );
  const image: ChatMessage = {
    role: "user",
    content: "x",
    parts: [{ type: "image" }, { type: "text", text: "x" }],
  };
  expect(textOf(qwen35.render([image]))).toContain("<|vision_start|><|image_pad|><|vision_end|>x<|im_end|>");
  const plain = formatFor("qwen35", {}, { template: "{% for m in messages %}{{ m.content }}{% endfor %}" });
  expect(plain.capabilities.tools).toBe(false);
});

test("a template that writes as we do is known by it, and one that differs anywhere", () => {
  const own = (talk: readonly ChatMessage[], chat: ChatOptions) => renderQwen35(talk, chat, false);
  const like = (change: (text: string) => string, more: Partial<ChatTemplate> = {}): ChatTemplate => ({
    render: (talk, chat = {}) => [{ text: change(textOf(own(talk, chat))), special: true }],
    reads: () => false,
    names: false,
    opensThought: () => false,
    ...more,
  });
  expect(
    agreesWith(
      like((text) => text),
      own,
    ),
  ).toBe(true);
  for (const [from, to] of [
    ["\n</tool_call>", "</tool_call>"],
    ["None", "null"],
    ["late", " late"],
    ["<IMPORTANT>", ""],
  ] as const) {
    expect(
      agreesWith(
        like((text) => text.replace(from, to)),
        own,
      ),
    ).toBe(false);
  }
  expect(
    agreesWith(
      like((text) => text, { names: true }),
      own,
    ),
  ).toBe(false);
  expect(
    agreesWith(
      like((text) => text, { reads: (name) => name === "reasoning_effort" }),
      own,
    ),
  ).toBe(false);
  const refuses = like((text) => text, {
    render: () => {
      throw new Error("no");
    },
  });
  expect(agreesWith(refuses, own)).toBe(false);
});

test("conversations beyond what was compared go through the template", () => {
  const system: ChatMessage = { role: "system", content: "s" };
  const result: ChatMessage = { role: "tool", content: "r", name: "f" };
  expect(isProbed([system, user("a")], {})).toBe(true);
  expect(isProbed(talk(""), { templateArguments: { enable_thinking: true } })).toBe(true);
  expect(isProbed([user("a"), system], {})).toBe(false);
  expect(isProbed([{ role: "developer", content: "d" }, user("a")], {})).toBe(false);
  expect(isProbed([user("a"), result], {})).toBe(false);
  expect(isProbed([system], {})).toBe(false);
  expect(isProbed([user("a")], { templateArguments: { mood: "good" } })).toBe(false);
});

test("through a template, too, no text of anybody becomes a mark", () => {
  const marks = {
    gemma4: [
      "<|turn>",
      "<turn|>",
      "<|channel>",
      "<channel|>",
      "<|tool_call>",
      "<tool_call|>",
      "<|tool_response>",
      "<tool_response|>",
      '<|"|>',
      "<tool|>",
    ],
    qwen35: [
      "<|im_start|>",
      "<|im_end|>",
      "<think>",
      "</think>",
      "<tool_call>",
      "</tool_call>",
      "<tool_response>",
      "</tool_response>",
    ],
  };
  for (const family of ["gemma4", "qwen35"] as const) {
    const tokenizer = family === "gemma4" ? gemma : qwen;
    const format = formatFor(family, {}, { template: family === "gemma4" ? GEMMA : QWEN });
    const ids = marks[family].map((mark) => tokenizer.idOf(mark)!);
    const spell = marks[family].join("x");
    const count = (s: string): number =>
      format.prompt(talk(s), { tools: tools(s) }).filter((id) => ids.includes(id)).length;
    expect(count(spell)).toBe(count(""));
  }
});
