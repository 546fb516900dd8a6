/** Byte-level BPE: words by a published pre-tokenizer, merges over their bytes; written as a tokenizer.json. */
import { unexpected } from "../../core/error.ts";
import { alphabet } from "../../models/tokenizer/byte_level.ts";
import { toNfc } from "../../models/tokenizer/normal_form.ts";
import { preTokenizers } from "../../models/tokenizer/split.ts";
import { byId, learnMerges } from "./learn.ts";
import { packWords, WordCounter } from "./words.ts";

export type ByteLevelOptions = {
  /** Entries of the vocabulary, special tokens included. */
  readonly size: number;
  /** Name of a pre-tokenizer, such as `gpt-2` or `gpt-4o`. */
  readonly pre: string;
  /** Control tokens; they get the first ids. */
  readonly special: readonly string[];
  readonly bos?: string;
  readonly eos?: string;
  /** Pairs that are rarer are not merged. */
  readonly leastCount: number;
};

/** The 256 characters of the byte alphabet in the order of their code units. */
const sortedAlphabet: readonly string[] = [...alphabet].sort((a, b) => (a < b ? -1 : 1));

export class ByteLevelTrainer {
  readonly #options: ByteLevelOptions;
  readonly #counter = new WordCounter();

  constructor(options: ByteLevelOptions) {
    checkOptions(options);
    this.#options = options;
  }

  add(text: string): void {
    const { split, nfc } = preTokenizers.get(this.#options.pre)!;
    const normal = nfc ? toNfc(text) : text;
    for (let start = 0; start < normal.length; ) {
      const end = split(normal, start);
      this.#counter.add(normal.slice(start, end));
      start = end;
    }
  }

  /** The parsed content of the files; fewer entries than asked for where the text has no more pairs. */
  finish(onMerge?: (done: number) => void): {
    readonly tokenizer: object;
    readonly config: object;
    readonly size: number;
  } {
    if (this.#counter.size === 0) throw unexpected("invalid_request", "tokenizer training", "text", "none");
    const { special, size, leastCount } = this.#options;
    const first = special.length;
    const byteId = Int32Array.from(alphabet, (c) => first + sortedAlphabet.indexOf(c));
    const words = this.#counter.entries().map(([word, count]): [Int32Array, number] => {
      const bytes = Buffer.from(word, "utf8");
      return [Int32Array.from(bytes, (byte) => byteId[byte]!), count];
    });
    const { texts, merges } = learnMerges(packWords(words), {
      alphabet: [...special, ...sortedAlphabet],
      ...{ size, leastCount, before: byId },
      ...(onMerge && { onMerge }),
    });
    return {
      tokenizer: tokenizerJson(this.#options, texts, merges),
      config: tokenizerConfig(this.#options),
      size: texts.length,
    };
  }
}

function checkOptions({ pre, special, size, bos, eos, leastCount }: ByteLevelOptions): void {
  const where = "tokenizer training";
  if (!preTokenizers.has(pre)) {
    const known = [...preTokenizers.keys()].join(", ");
    throw unexpected("invalid_request", where, `a pre-tokenizer of ${known}`, pre);
  }
  checkSpecial(special, where);
  for (const end of [bos, eos]) {
    if (end !== undefined && !special.includes(end))
      throw unexpected(
        "invalid_request",
        where,
        `one of the special tokens ${special.join(", ") || "(none)"}`,
        end,
      );
  }
  const least = special.length + 256 + 1;
  if (!(Number.isInteger(size) && size >= least && size <= 1 << 22)) {
    throw unexpected("invalid_request", where, `a vocabulary of ${least} to ${1 << 22} entries`, size, {
      fix: `${special.length} special tokens and 256 bytes come first`,
    });
  }
  if (!(Number.isInteger(leastCount) && leastCount >= 1))
    throw unexpected("invalid_request", where, "a least count of 1 or more", leastCount);
}

/** Special tokens must be there once each, and none may be a single byte's name. */
export function checkSpecial(special: readonly string[], where: string): void {
  special.forEach((token, i) => {
    const wrong =
      token.length < 2 ? "a short one" : special.indexOf(token) !== i ? "one that is there twice" : undefined;
    if (wrong)
      throw unexpected(
        "invalid_request",
        where,
        "special tokens of 2 characters or more, once each",
        `${wrong}: ${token}`,
      );
  });
}

function tokenizerJson(
  { pre, special }: ByteLevelOptions,
  texts: readonly string[],
  merges: readonly (readonly [number, number])[],
): object {
  const { pattern, ignoreMerges, nfc } = preTokenizers.get(pre)!;
  const byteLevel = (useRegex: boolean): object => ({
    type: "ByteLevel",
    ...{ add_prefix_space: false, trim_offsets: true, use_regex: useRegex },
  });
  const split = { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
  const plain = pattern === preTokenizers.get("gpt-2")!.pattern;
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map((content, id) => ({
      ...{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
    })),
    normalizer: nfc ? { type: "NFC" } : null,
    pre_tokenizer: plain ? byteLevel(true) : { type: "Sequence", pretokenizers: [split, byteLevel(false)] },
    post_processor: null,
    decoder: byteLevel(true),
    model: {
      type: "BPE",
      ...{ dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null },
      ...{ fuse_unk: false, byte_fallback: false, ignore_merges: ignoreMerges },
      vocab: Object.fromEntries(texts.map((text, id) => [text, id])),
      merges: merges.map(([left, right]) => [texts[left]!, texts[right]!]),
    },
  };
}

function tokenizerConfig({ bos, eos }: ByteLevelOptions): object {
  return {
    tokenizer_class: "PreTrainedTokenizerFast",
    ...{ add_bos_token: false, add_eos_token: false },
    ...(bos !== undefined && { bos_token: bos }),
    ...(eos !== undefined && { eos_token: eos }),
    clean_up_tokenization_spaces: false,
  };
}
