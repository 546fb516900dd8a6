import { makeTokenizer, type Tokenizer } from "../../tokenizer/tokenizer.ts";
import { makeVocabulary, TokenType } from "../../tokenizer/vocabulary.ts";

/** A vocabulary of single bytes (their ids are the bytes), one token of two newlines, and the given special tokens. */
export function markedTokenizer(
  control: readonly string[],
  options: {
    readonly userDefined?: readonly string[];
    readonly bos?: string;
    readonly addBos?: boolean;
  } = {},
): Tokenizer {
  const userDefined = options.userDefined ?? [];
  const bytes = Array.from(
    { length: 256 },
    (_, byte) => `<0x${byte.toString(16).padStart(2, "0").toUpperCase()}>`,
  );
  const texts = [...bytes, "\n\n", ...control, ...userDefined];
  const types = new Uint8Array(texts.length).fill(TokenType.byte, 0, 256);
  types.fill(TokenType.normal, 256, 257).fill(TokenType.control, 257, 257 + control.length);
  types.fill(TokenType.userDefined, 257 + control.length);
  const bos = options.bos === undefined ? {} : { bos: texts.indexOf(options.bos) };
  return makeTokenizer({
    kind: "llama",
    pre: "",
    vocabulary: makeVocabulary(texts, types, bos, []),
    addBos: options.addBos ?? false,
    addEos: false,
    // biome-ignore lint/correctness/useYield: one step
    *encodeText(text, ids) {
      // The one merge shows whether text on both sides of a border was tokenised together.
      for (const part of text.split(/(\n\n)/)) {
        if (part === "\n\n") ids.push(256);
        else for (const byte of Buffer.from(part, "utf8")) ids.push(byte);
      }
    },
    bytesOf: (text) => Buffer.from(text, "utf8"),
    spacePrefix: false,
  });
}

export const HARMONY_CONTROLS = [
  "<|startoftext|>",
  "<|endoftext|>",
  "<|return|>",
  "<|constrain|>",
  "<|channel|>",
  "<|start|>",
  "<|end|>",
  "<|message|>",
  "<|call|>",
  "<|reserved_200013|>",
] as const;

/** Qwen 3.5's marks; most are words that text is always searched for. */
export function qwenTokenizer(): Tokenizer {
  return markedTokenizer(
    [
      "<|im_start|>",
      "<|im_end|>",
      "<|endoftext|>",
      "<|image_pad|>",
      "<|video_pad|>",
      "<|vision_start|>",
      "<|vision_end|>",
    ],
    {
      userDefined: [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "</tool_response>",
      ],
    },
  );
}

/** Gemma 4's marks as GGUF files class them. */
export function gemmaTokenizer(): Tokenizer {
  return markedTokenizer(
    [
      "<bos>",
      "<eos>",
      "<|turn>",
      "<turn|>",
      "<|think|>",
      "<|tool>",
      "<tool|>",
      "<|tool_response>",
      "<|image|>",
      "<|audio|>",
      "<|video|>",
    ],
    {
      userDefined: ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<tool_response|>", '<|"|>'],
      ...{ bos: "<bos>", addBos: true },
    },
  );
}
