import { harmonyFormat } from "../../../models/chat/harmony.ts";
import {
  type ChatFormat,
  type ChatMessage,
  type ChatModel,
  chatFormatFor,
  type ParsedEvent,
} from "../../../models/chat/index.ts";
import { promptWriter } from "../../../models/chat/pieces.ts";
import { gemmaTokenizer, qwenTokenizer } from "../../../models/chat/testing/vocabulary.ts";
import { makeTokenizer, type Tokenizer } from "../../../models/tokenizer/tokenizer.ts";
import { makeVocabulary, TokenType } from "../../../models/tokenizer/vocabulary.ts";
import { type Script, ScriptedEngine } from "../../scripted_engine.ts";
import type { ServedModel } from "../options.ts";

export { type Script, ScriptedEngine } from "../../scripted_engine.ts";

/** Ids of the test vocabulary beyond the 256 bytes. */
export const END = 256;
export const THINK = 257;
export const ANSWER = 258;
const specials = ["<|end|>", "<|think|>", "<|answer|>"];
const harmonySpecials = [
  ...["<|return|>", "<|start|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>", "<|end|>"],
];

/** A vocabulary of single bytes and a few control tokens. */
export function byteTokenizer(controls: readonly string[] = specials): Tokenizer {
  const texts = [
    ...Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).padStart(2, "0").toUpperCase()}>`),
    ...controls,
  ];
  const types = new Uint8Array(texts.length).fill(TokenType.byte, 0, 256).fill(TokenType.control, 256);
  return makeTokenizer({
    kind: "llama",
    pre: "",
    vocabulary: makeVocabulary(texts, types, { eos: END }, []),
    addBos: false,
    addEos: false,
    // biome-ignore lint/correctness/useYield: one step
    *encodeText(text, ids) {
      for (const byte of Buffer.from(text, "utf8")) ids.push(byte);
    },
    bytesOf: (text) => Buffer.from(text, "utf8"),
    spacePrefix: false,
  });
}

/** Text to ids; `<|think|>` and `<|answer|>` become control tokens. */
export function script(text: string, tokenizer: Tokenizer = byteTokenizer()): number[] {
  return tokenizer.encode(text, { special: true });
}

/** `role:content` lines; reasoning stands between `<|think|>` and `<|answer|>`. */
export function lineFormat(tokenizer: Tokenizer): ChatFormat {
  const written = (messages: readonly ChatMessage[]): string =>
    messages.map(({ role, content }) => `${role}:${content}\n`).join("");
  return {
    name: "harmony",
    capabilities: { reasoning: true, tools: false, names: false },
    reads: (variable) => variable === "reasoning_effort" || variable === "enable_thinking",
    stopTokens: [END],
    render: (messages) => [{ text: written(messages), special: false }],
    ...promptWriter(tokenizer, (messages) => [{ text: written(messages), special: false }]),
    parser: () => {
      let kind: "content" | "reasoning" = "content";
      let marker = false;
      const decoder = tokenizer.streamDecoder();
      const event = (text: string): ParsedEvent[] => (text === "" ? [] : [{ type: kind, text }]);
      return {
        unparsed: 0,
        get inContent() {
          return kind === "content" && !marker;
        },
        push: (token) => {
          marker = tokenizer.isControl(token);
          if (token === THINK) kind = "reasoning";
          if (token === ANSWER) kind = "content";
          return event(decoder.push(token));
        },
        finish: () => event(decoder.flush()),
      };
    },
  };
}

/** A model that says `answers`. */
export function scriptedModel(options: Script | string): ServedModel & { readonly engine: ScriptedEngine } {
  const tokenizer = byteTokenizer();
  const engine = new ScriptedEngine(
    typeof options === "string" ? { answers: [options] } : options,
    tokenizer,
  );
  return { engine, tokenizer, chat: lineFormat(tokenizer), chatTemplate: "lines" };
}

/** The same with GPT-OSS's format, its real prompts and its real parser. */
export function harmonyModel(options: Script | string): ServedModel & { readonly engine: ScriptedEngine } {
  const tokenizer = byteTokenizer(harmonySpecials);
  const script = typeof options === "string" ? { answers: [options] } : options;
  const engine = new ScriptedEngine({ contextLength: 8192, ...script }, tokenizer);
  return { engine, tokenizer, chat: harmonyFormat(tokenizer) };
}

/** The same for another family: `setting` is what its file would say. */
export function familyModel(
  family: "gemma4" | "qwen35",
  options: Script | string,
  { setting = () => undefined, names = [] }: Partial<Pick<ChatModel, "setting" | "names">> = {},
): ServedModel & { readonly engine: ScriptedEngine } {
  const tokenizer = family === "gemma4" ? gemmaTokenizer() : qwenTokenizer();
  const script = typeof options === "string" ? { answers: [options] } : options;
  const engine = new ScriptedEngine({ contextLength: 8192, ...script }, tokenizer);
  const chat = chatFormatFor({ architecture: family, template: undefined, tokenizer, setting, names });
  return { engine, tokenizer, chat };
}

/** A Harmony answer that thinks and then speaks. */
export function speech(text: string, thought = "hm"): string {
  return `<|channel|>analysis<|message|>${thought}<|end|><|start|>assistant<|channel|>final<|message|>${text}<|return|>`;
}

/** A Harmony answer that thinks and then calls a function. */
export function call(name: string, args: string, thought = "hm"): string {
  const header = `<|start|>assistant<|channel|>commentary to=functions.${name} <|constrain|>json<|message|>`;
  return `<|channel|>analysis<|message|>${thought}<|end|>${header}${args}<|call|>`;
}
