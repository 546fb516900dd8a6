/** The tokenizer of the recipe: byte-level BPE learnt from the corpus, with the nine tokens of the Harmony format. */
import type { Document } from "../../data/corpora/document.ts";
import { ByteLevelTrainer } from "../../data/tokenizers/byte_level.ts";
import type { MetadataValue } from "../../models/files/gguf_writer.ts";
import { type Tokenizer, tokenizerFromHuggingFace } from "../../models/tokenizer/index.ts";

const special = [
  ...["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>"],
  ...["<|start|>", "<|end|>", "<|message|>", "<|call|>"],
] as const;
const [bos, padding, eos] = special;
const pre = "gpt-4o";

/** What is read of a tokenizer.json. */
type TokenizerJson = {
  readonly added_tokens: readonly { readonly id: number }[];
  readonly model: {
    readonly vocab: Readonly<Record<string, number>>;
    readonly merges: readonly (readonly [string, string])[];
  };
};

/** A tokenizer.json and what it makes. */
export type TrainedTokenizer = { readonly json: TokenizerJson; readonly tokenizer: Tokenizer };

/** Learns a vocabulary of `size` entries; fewer where the text has no more pairs than that. */
export function learnTokenizer(
  documents: readonly Document[],
  size: number,
  onMerge?: (done: number) => void,
): TrainedTokenizer {
  const trainer = new ByteLevelTrainer({ size, pre, special, bos, eos, leastCount: 2 });
  for (const { text } of documents) trainer.add(text);
  const { tokenizer, config } = trainer.finish(onMerge);
  const json = specialLast(tokenizer as TokenizerJson);
  return { json, tokenizer: tokenizerFromHuggingFace(json, config) };
}

/** Text first, from id 0, as vocabularies of GPT-OSS have it. */
function specialLast(json: TokenizerJson): TokenizerJson {
  const entries = Object.entries(json.model.vocab);
  const size = entries.length;
  const moved = (id: number): number => (id + size - special.length) % size;
  const vocab = Object.fromEntries(
    entries.map(([token, id]) => [token, moved(id)] as const).sort((a, b) => a[1] - b[1]),
  );
  const added_tokens = json.added_tokens.map((token) => ({ ...token, id: moved(token.id) }));
  return { ...json, added_tokens, model: { ...json.model, vocab } };
}

/** The tokenizer as GGUF's metadata. */
export function vocabularyOf({ json, tokenizer }: TrainedTokenizer): Record<string, MetadataValue> {
  const { vocab, merges } = json.model;
  const tokens = Object.keys(vocab).sort((a, b) => vocab[a]! - vocab[b]!);
  const list = (value: readonly string[]): MetadataValue => ({ type: "array", elementType: "string", value });
  const id = (token: string): MetadataValue => ({ type: "u32", value: vocab[token]! });
  const types = tokens.map((_, i) => (tokenizer.isControl(i) ? 3 : 1));
  return {
    "tokenizer.ggml.model": { type: "string", value: "gpt2" },
    "tokenizer.ggml.pre": { type: "string", value: pre },
    "tokenizer.ggml.tokens": list(tokens),
    "tokenizer.ggml.token_type": { type: "array", elementType: "i32", value: types },
    "tokenizer.ggml.merges": list(merges.map((pair) => pair.join(" "))),
    "tokenizer.ggml.bos_token_id": id(bos),
    "tokenizer.ggml.eos_token_id": id(eos),
    "tokenizer.ggml.padding_token_id": id(padding),
  };
}
