/** Vocabularies for random models: all tokens of a size, with the merges and control tokens their tokenizers want. */
import type { MetadataValue } from "../src/models/files/gguf_writer.ts";

type Asked = { readonly architecture: string; readonly vocabulary: number };

const controlTokens: Readonly<Record<string, readonly string[]>> = {
  "gpt-oss": [
    ...["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>"],
    ...["<|end|>", "<|message|>", "<|call|>"],
  ],
  qwen35: [
    ...["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>"],
    ...["</tool_response>", "<think>", "</think>"],
  ],
  gemma4: [
    ...["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|tool>"],
    ...["<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'],
  ],
  other: [
    ...["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
  ],
};

type Tokenizer = {
  readonly control: keyof typeof controlTokens;
  readonly pre: string;
  readonly bos?: string;
  readonly eos: string;
};

function tokenizerOf(architecture: string): Tokenizer {
  if (architecture === "gpt-oss")
    return { control: "gpt-oss", pre: "gpt-4o", bos: "<|startoftext|>", eos: "<|return|>" };
  if (architecture.startsWith("qwen35")) return { control: "qwen35", pre: "qwen35", eos: "<|im_end|>" };
  return { control: "other", pre: "llama-bpe", bos: "<|begin_of_text|>", eos: "<|end_of_text|>" };
}

/** Metadata of the tokenizer. */
export function vocabulary({ architecture, vocabulary: size }: Asked): Record<string, MetadataValue> {
  if (architecture === "gemma4") return characterVocabulary(size);
  const { control, pre, bos, eos } = tokenizerOf(architecture);
  const marks = controlTokens[control]!;
  const { tokens, merges } = merged(byteAlphabet(), size - marks.length);
  const types = tokens.map(() => 1).concat(marks.map(() => 3));
  tokens.push(...marks);
  return {
    "tokenizer.ggml.model": text("gpt2"),
    "tokenizer.ggml.pre": text(pre),
    ...lists(tokens, types, merges),
    ...(bos !== undefined && { "tokenizer.ggml.bos_token_id": u32(tokens.indexOf(bos)) }),
    "tokenizer.ggml.eos_token_id": u32(tokens.indexOf(eos)),
    ...(bos === undefined && { "tokenizer.ggml.add_bos_token": { type: "bool", value: false } }),
  };
}

/** Gemma's kind: control tokens first, then the 256 bytes as tokens of their own, then characters and what they merge to. */
function characterVocabulary(size: number): Record<string, MetadataValue> {
  const marks = controlTokens.gemma4!;
  const bytes = Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`);
  const alphabet = ["\u2581", ...Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i))];
  const { tokens, merges } = merged(alphabet, size - marks.length - bytes.length);
  const types = [...marks.map(() => 3), ...bytes.map(() => 6), ...tokens.map(() => 1)];
  const all = [...marks, ...bytes, ...tokens];
  return {
    "tokenizer.ggml.model": text("gemma4"),
    ...lists(all, types, merges),
    "tokenizer.ggml.bos_token_id": u32(all.indexOf("<bos>")),
    "tokenizer.ggml.eos_token_id": u32(all.indexOf("<turn|>")),
    "tokenizer.ggml.unknown_token_id": u32(all.indexOf("<unk>")),
    "tokenizer.ggml.padding_token_id": u32(0),
  };
}

/** An alphabet, then pairs and triples of it with their merges, up to so many tokens. */
function merged(alphabet: readonly string[], wanted: number): { tokens: string[]; merges: string[] } {
  const tokens = alphabet.slice(0, wanted);
  const merges: string[] = [];
  for (let length = 1; tokens.length < wanted; length++) {
    const stems = tokens.filter((t) => [...t].length === length);
    for (const stem of stems) {
      for (const letter of alphabet) {
        if (tokens.length >= wanted) break;
        merges.push(`${stem} ${letter}`);
        tokens.push(stem + letter);
      }
    }
  }
  return { tokens, merges };
}

function lists(
  tokens: readonly string[],
  types: readonly number[],
  merges: readonly string[],
): Record<string, MetadataValue> {
  return {
    "tokenizer.ggml.tokens": { type: "array", elementType: "string", value: [...tokens] },
    "tokenizer.ggml.token_type": { type: "array", elementType: "i32", value: [...types] },
    "tokenizer.ggml.merges": { type: "array", elementType: "string", value: [...merges] },
  };
}

const text = (value: string): MetadataValue => ({ type: "string", value });
const u32 = (value: number): MetadataValue => ({ type: "u32", value });

/** The 256 characters that stand for bytes in byte-level BPE. */
function byteAlphabet(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => {
    const itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    return String.fromCodePoint(itself ? b : next++);
  });
}
