import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { brotliDecompressSync } from "node:zlib";
import { runAll } from "../../core/steps.ts";
import { type Tokenizer, tokenizerFromGguf, tokenizerFromHuggingFace } from "../tokenizer/index.ts";
import { encodePieces, marked, plain, promptWriter } from "./pieces.ts";
import type { ChatMessage, ChatTokenizer, PromptPiece } from "./types.ts";

setDefaultTimeout(60_000);

type Stored = {
  readonly model: { readonly vocab: Record<string, number>; readonly merges: [string, string][] };
  readonly added_tokens: { readonly id: number; readonly content: string }[];
};

const path = join(import.meta.dir, "../../../fixtures/tokenizers.json.br");
const { texts, ...stored }: { texts: string[] } & Record<string, { tokenizer: Stored }> = JSON.parse(
  brotliDecompressSync(readFileSync(path)).toString(),
);

/** A fixture's vocabulary as GGUF metadata of the given kind. */
function fromGguf(family: string, model: string, more: Record<string, unknown>): Tokenizer {
  const { model: bpe, added_tokens: added } = stored[family]!.tokenizer;
  const tokens: string[] = [];
  for (const [text, id] of Object.entries(bpe.vocab)) tokens[id] = text;
  for (const { id, content } of added) tokens[id] = content;
  const control = new Set(added.map(({ id }) => id));
  const settings = {
    ...{ model, pre: family, tokens },
    token_type: tokens.map((text, id) =>
      text === "<unk>" ? 2 : control.has(id) ? 3 : /^<0x..>$/.test(text) ? 6 : 1,
    ),
    merges: bpe.merges.map((pair) => pair.join(" ")),
    scores: tokens.map((_, id) => (id < 259 ? 0 : 259 - id)),
    ...more,
  };
  const metadata = new Map<string, unknown>(
    Object.entries(settings).map(([key, value]) => [`tokenizer.ggml.${key}`, value]),
  );
  return tokenizerFromGguf((key) => metadata.get(key));
}

const scores = { merges: undefined, add_bos_token: false, unknown_token_id: 0 };
const tokenizers: readonly (readonly [string, Tokenizer])[] = [
  ...Object.entries(stored).map(
    ([family, { tokenizer }]) => [family, tokenizerFromHuggingFace(tokenizer)] as const,
  ),
  ["llama, by scores", fromGguf("llama", "llama", scores)],
  ["gemma, by scores", fromGguf("gemma", "llama", { ...scores, add_space_prefix: false })],
  ["gemma4", fromGguf("gemma", "gemma4", { scores: undefined, bos_token_id: 1, add_bos_token: true })],
];

/** A format whose messages stand between control tokens. */
function chatOf(tokenizer: Tokenizer) {
  const controls = Array.from({ length: tokenizer.vocabularySize }, (_, id) => id)
    .filter((id) => tokenizer.isControl(id))
    .map((id) => tokenizer.tokenText(id));
  const mark = controls.at(-1)!;
  let encodedUnits = 0;
  const counting: ChatTokenizer = {
    ...tokenizer,
    encodeSteps: (text, options, most) => {
      encodedUnits += text.length;
      return tokenizer.encodeSteps(text, options, most);
    },
  };
  let guards: readonly string[] = [];
  const write = (messages: readonly ChatMessage[]): PromptPiece[] =>
    messages.flatMap(({ role, name = "", content }) => [
      marked(`${mark}${role}${name}\n`),
      plain(content),
      marked(mark),
    ]);
  const format = promptWriter(counting, write, () => guards);
  return {
    mark,
    ask: (messages: readonly ChatMessage[], guarded: readonly string[] = [], most?: number) => {
      encodedUnits = 0;
      guards = guarded;
      const ids = runAll(format.promptSteps(messages, {}, most));
      return { ids, encodedUnits, alone: encodePieces(tokenizer, write(messages), guarded) };
    },
  };
}

const said = (role: ChatMessage["role"], content: string): ChatMessage => ({ role, content });

describe("a conversation that goes on has the tokens of one that is read for the first time", () => {
  for (const [name, tokenizer] of tokenizers) {
    test(name, () => {
      const { mark, ask } = chatOf(tokenizer);
      let state = 7;
      const below = (limit: number): number => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        return (state >>> 8) % limit;
      };
      // marks that a message spells, blanks at both ends, halves of surrogate pairs
      const words = [...texts, mark, ` ${mark} `, "  ", "\n\n", "\ud83d", "\ude00", "the ", "word "];
      const long = (): string =>
        Array.from({ length: 1 + below(60) }, () => words[below(words.length)]).join("");
      const kept = Array.from({ length: 6 }, long);
      const messages: ChatMessage[] = [];
      for (let turn = 0; turn < 30; turn++) {
        const content = below(3) === 0 ? kept[below(kept.length)]! : long();
        const at = below(messages.length + 1);
        if (below(4) === 0) messages.splice(at, 1, said("user", `${messages[at]?.content ?? ""}!`));
        else messages.push(said(turn % 2 === 0 ? "user" : "assistant", content));
        if (messages.length > 12) messages.splice(0, below(6));
        const { ids, alone } = ask(messages, below(2) === 0 ? ["the", "word"] : []);
        expect(ids.join()).toBe(alone.join());
      }
    });
  }
});

describe("of a conversation that goes on", () => {
  const long = (seed: number): string => `${seed} `.repeat(1000);
  const first = [said("user", long(1)), said("assistant", long(2))];

  for (const [name, tokenizer] of tokenizers) {
    test(`only what is new is encoded, ${name}`, () => {
      const { ask } = chatOf(tokenizer);
      expect(ask(first).encodedUnits).toBeGreaterThan(4000);
      const second = ask([...first, said("user", "And then?")]);
      expect(second.encodedUnits).toBeLessThan(200);
      expect(second.ids).toEqual(second.alone);
      const edited = ask([said("user", `${long(1)}.`), ...first.slice(1)]);
      expect(edited.encodedUnits).toBeGreaterThan(2000);
      expect(edited.encodedUnits).toBeLessThan(2200);
      expect(edited.ids).toEqual(edited.alone);
    });
  }

  test("markup is the format's own in every message, however many sorts there are", () => {
    const { ask } = chatOf(tokenizers[1]![1]);
    const named = (i: number): ChatMessage => ({ ...said("user", long(i)), name: `${"n".repeat(i)}${i}` });
    for (let i = 0; i < 600; i += 20) {
      const { ids, alone } = ask(Array.from({ length: 20 }, (_, j) => named(i + j)));
      expect(ids.join()).toBe(alone.join());
    }
  });

  test("what was left half-way is not taken for the whole", () => {
    const { ask } = chatOf(tokenizers[0]![1]);
    const text = [said("user", long(3).repeat(50))];
    const { ids } = ask(text, [], 10);
    const whole = ask(text);
    expect(ids.length).toBeLessThan(whole.alone.length);
    expect(whole.ids).toEqual(whole.alone);
  });
});
