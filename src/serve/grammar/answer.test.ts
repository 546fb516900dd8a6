/** Whole answers of each format, made of random tokens that the masks allow and read by the format's own parser. */
import { describe, expect, test } from "bun:test";
import Ajv from "ajv/dist/2020.js";
import { gemma4Format } from "../../models/chat/gemma4.ts";
import { harmonyFormat } from "../../models/chat/harmony.ts";
import type { AnswerWish, ChatFormat, ChatOptions, ChatTokenizer } from "../../models/chat/index.ts";
import { qwen35Format } from "../../models/chat/qwen35.ts";
import { gemmaTokenizer, qwenTokenizer } from "../../models/chat/testing/vocabulary.ts";
import { byteTokenizer } from "../http/testing/scripted.ts";
import { answerGrammar } from "./answer.ts";
import { compileGrammar } from "./compile.ts";
import { Grammars } from "./constraint.ts";
import type { Grammar } from "./expr.ts";
import { gemmaNotation } from "./notation.ts";
import { qwenArguments } from "./qwen_arguments.ts";
import { schemaGrammar } from "./schema.ts";
import { allowedTokens, seeded } from "./testing/walk.ts";
import { packTokens } from "./token_trie.ts";

const ajv = new Ajv({ strict: false });
const address = {
  type: "object",
  properties: { street: { type: "string", maxLength: 5 }, no: { type: "integer", minimum: 1, maximum: 99 } },
  required: ["street", "no"],
  additionalProperties: false,
};
const tools = [
  {
    name: "write_file",
    parameters: {
      type: "object",
      properties: {
        path: { type: "string", pattern: "^[a-z]{1,4}\\.txt$" },
        text: { type: "string" },
        mode: { enum: ["append", "replace"] },
        lines: { type: "array", items: { type: "integer", minimum: 0, maximum: 9 }, maxItems: 3 },
        deep: { type: "boolean" },
      },
      required: ["path", "text"],
      additionalProperties: false,
    },
  },
  {
    name: "find",
    parameters: {
      type: "object",
      properties: {
        where: address,
        tags: { type: "array", items: { enum: ["a", "b c"] }, minItems: 1, maxItems: 2 },
      },
      required: ["where", "tags"],
      additionalProperties: false,
    },
  },
  { name: "stop", parameters: { type: "object", properties: {}, additionalProperties: false } },
];

type Family = {
  readonly chat: ChatFormat;
  readonly tokenizer: ChatTokenizer;
  readonly write: (tool: (typeof tools)[number], prefix: string) => Grammar;
  readonly prompt: readonly number[];
};

const harmonyMarks = [
  "<|return|>",
  "<|start|>",
  "<|message|>",
  "<|channel|>",
  "<|constrain|>",
  "<|call|>",
  "<|end|>",
];
const harmony = byteTokenizer(harmonyMarks);
const qwen = qwenTokenizer();
const gemma = gemmaTokenizer();
const families: Readonly<Record<string, Family>> = {
  Harmony: {
    chat: harmonyFormat(harmony),
    tokenizer: harmony,
    prompt: [],
    write: ({ parameters }, prefix) => schemaGrammar(parameters, { prefix }),
  },
  "Qwen 3.5": {
    chat: qwen35Format(qwen, { thinks: true }),
    tokenizer: qwen,
    prompt: [qwen.idOf("<think>")!],
    write: (tool, prefix) => qwenArguments(tool, { prefix }),
  },
  "Gemma 4": {
    chat: gemma4Format(gemma, { emptyThought: false }),
    tokenizer: gemma,
    prompt: [gemma.idOf("<|channel>")!],
    write: ({ parameters }, prefix) =>
      schemaGrammar(parameters, { prefix, notation: gemmaNotation(gemma.idOf('<|"|>')!) }),
  },
};

/** One random answer and what the format's parser makes of it. */
function answer(family: Family, wish: AnswerWish, seed: number) {
  const { chat, tokenizer, write, prompt } = family;
  const options: ChatOptions = { tools, templateArguments: {} };
  const args = new Map(tools.map((tool, i) => [tool.name, write(tool, `tool ${i}`)]));
  const shape = chat.shape!(wish, options, prompt);
  const program = compileGrammar(
    answerGrammar(shape, { content: schemaGrammar(address), arguments: args }, (mark) =>
      tokenizer.idOf(mark),
    ),
  );
  const marks = new Set((chat.marks ?? []).flatMap((mark) => tokenizer.idOf(mark) ?? []));
  const grammars = new Grammars(tokenizer.vocabularySize);
  grammars.learn(packTokens(tokenizer, marks));
  const stop = chat.stopTokens[0]!;
  const constraint = grammars
    .add("a", program)
    .open({ digest: "a", consumed: [], stops: [...chat.stopTokens] });
  const random = seeded(seed);
  const parser = chat.parser(options, prompt);
  const found = { content: "", reasoning: "", calls: [] as { name: string; arguments: string }[] };
  const take = (events: ReturnType<typeof parser.push>): void => {
    for (const event of events) {
      if (event.type !== "toolCall") found[event.type] += event.text;
      else {
        found.calls[event.index] ??= { name: event.name ?? "", arguments: "" };
        found.calls[event.index]!.arguments += event.arguments;
      }
    }
  };
  let ended = false;
  // the end of a text that nothing but its end ends
  let closing: number[] = [];
  for (let i = 0; i < 3000 && !ended; i++) {
    const allowed = allowedTokens(constraint.mask());
    const ends = allowed.filter((id) => chat.stopTokens.includes(id));
    const special = allowed.filter((id) => marks.has(id) || tokenizer.isControl(id));
    // marks come often, so that free text does not go on for ever
    const from =
      ends.length > 0 && random() < 0.2 ? ends : special.length > 0 && random() < 0.2 ? special : allowed;
    if (closing.length === 0 && random() < 0.05) closing = [...Buffer.from("\n</parameter>\n")];
    const next = closing.shift();
    const closes = next !== undefined && allowed.includes(next);
    if (!closes) closing = [];
    const token = closes ? next : from[Math.floor(random() * from.length)]!;
    if (ends.includes(token)) break;
    constraint.accept(token);
    take(parser.push(token));
    ended = constraint.ended;
  }
  take(parser.finish(stop));
  return { ...found, unparsed: parser.unparsed };
}

function checkCall({ name, arguments: args }: { readonly name: string; readonly arguments: string }): void {
  const tool = tools.find((offered) => offered.name === name);
  expect(tool?.name).toBe(name);
  const value: unknown = JSON.parse(args);
  if (!ajv.validate(tool!.parameters, value)) throw new Error(`${name}: ${args}: ${ajv.errorsText()}`);
}

for (const [name, family] of Object.entries(families)) {
  describe(name, () => {
    test("a text of the caller's form, behind reasoning", () => {
      for (let seed = 1; seed <= 12; seed++) {
        const { content, calls, unparsed } = answer(family, { text: "own", calls: "none" }, seed);
        expect(ajv.validate(address, JSON.parse(content))).toBe(true);
        expect(calls).toEqual([]);
        expect(unparsed).toBe(0);
      }
    });

    test("a call that must come", () => {
      const called = new Set<string>();
      for (let seed = 1; seed <= 24; seed++) {
        const { content, calls } = answer(family, { text: "none", calls: "one" }, seed);
        expect(content).toBe("");
        expect(calls).toHaveLength(1);
        checkCall(calls[0]!);
        called.add(calls[0]!.name);
      }
      expect(called.size).toBe(3);
      const { calls } = answer(family, { text: "none", calls: "one", tool: "find" }, 5);
      expect(calls[0]?.name).toBe("find");
    });

    test("text or calls, as it likes", () => {
      let [calls, texts] = [0, 0];
      for (let seed = 1; seed <= 24; seed++) {
        const found = answer(family, { text: "free", calls: "several" }, seed);
        found.calls.forEach(checkCall);
        if (found.calls.length > 0) calls += 1;
        if (found.content !== "") texts += 1;
      }
      expect(calls).toBeGreaterThan(0);
      expect(texts).toBeGreaterThan(0);
    });
  });
}
