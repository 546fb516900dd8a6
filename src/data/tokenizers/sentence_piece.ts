/**
 * SentencePiece-BPE: merges over characters, blanks written as ▁ in front of words, characters without a piece spelled by
 * byte pieces. Text is taken as it is (no normalisation), with one blank put before it, so that decoding gives it back.
 */
import { unexpected } from "../../core/error.ts";
import { MARK } from "../../models/tokenizer/sentence_piece.ts";
import { type Piece, type PieceModel, pieceType } from "../../models/tokenizer/sentence_piece_model.ts";
import { checkSpecial } from "./byte_level.ts";
import { type LearnOptions, learnMerges } from "./learn.ts";
import { classOf } from "./piece_class.ts";
import { packWords, WordCounter } from "./words.ts";

export type SentencePieceOptions = {
  /** Pieces in all: `<unk> <s> </s>`, control symbols, 256 bytes, merges, characters. */
  readonly size: number;
  /** Share of the text's characters that get a piece of their own, the most frequent first. */
  readonly characterCoverage: number;
  readonly byteFallback: boolean;
  /** Control symbols after `</s>`. */
  readonly special: readonly string[];
  /** Characters of the longest piece. */
  readonly longest: number;
  /** Every digit is a piece of its own. */
  readonly splitDigits: boolean;
  readonly leastCount: number;
};

export const usualSentencePiece = {
  ...{
    characterCoverage: 0.9995,
    byteFallback: true,
    special: [],
    longest: 16,
    splitDigits: false,
    leastCount: 2,
  },
} as const;

export class SentencePieceTrainer {
  readonly #options: SentencePieceOptions;
  readonly #counter = new WordCounter();

  constructor(options: SentencePieceOptions) {
    checkOptions(options);
    this.#options = options;
  }

  /** Lines are texts of their own, as SentencePiece reads them: no piece holds a newline. */
  add(text: string): void {
    for (const line of text.split("\n")) {
      if (line === "") continue;
      for (const word of line.replaceAll(MARK, " ").split(/(?=[ ])/)) {
        this.#counter.add(word.startsWith(" ") ? MARK + word.slice(1) : MARK + word);
      }
    }
  }

  /** Fewer pieces than asked for where the text has no more pairs. */
  finish(onMerge?: (done: number) => void): PieceModel {
    if (this.#counter.size === 0) throw unexpected("invalid_request", "tokenizer training", "text", "none");
    const words = this.#counter.entries();
    const characters = coveredCharacters(words, this.#options.characterCoverage);
    const head = headPieces(this.#options);
    const room = this.#options.size - head.length - characters.length;
    if (room < 1) {
      const fix = "Ask for more pieces or a lower character coverage";
      const least = this.#options.size - room + 1;
      throw unexpected(
        "invalid_request",
        "tokenizer training",
        `a vocabulary of at least ${least} pieces for this text`,
        this.#options.size,
        { fix },
      );
    }
    const ids = new Map(characters.map((c, id) => [c, id]));
    const { longest, leastCount, splitDigits } = this.#options;
    const { texts } = learnMerges(packWords(runsOf(words, ids, splitDigits)), {
      alphabet: characters,
      size: characters.length + room,
      leastCount,
      allowed: (left, right) => lengthOf(left) + lengthOf(right) <= longest,
      before: shorterThenByText,
      ...(onMerge && { onMerge: (done: number) => onMerge(done + head.length) }),
    });
    const merged = [...texts.slice(characters.length), ...characters];
    const pieces: Piece[] = [
      ...head,
      ...merged.map((text, i) => ({ text, score: -i, type: pieceType.normal })),
    ];
    return { pieces, byteFallback: this.#options.byteFallback, ...ends, ...asGiven };
  }
}

const ends = { unknown: 0, bos: 1, eos: 2, padding: -1 } as const;
const asGiven = {
  addDummyPrefix: true,
  removeExtraWhitespaces: false,
  escapeWhitespaces: true,
  hasCharsMap: false,
} as const;

function checkOptions(options: SentencePieceOptions): void {
  const where = "tokenizer training";
  const refuse = (expected: string, got: unknown): never => {
    throw unexpected("invalid_request", where, expected, got);
  };
  const { size, characterCoverage, longest, leastCount } = options;
  checkSpecial(options.special, where);
  const least = headPieces(options).length + 2;
  if (!(Number.isInteger(size) && size >= least && size <= 1 << 22))
    refuse(`a vocabulary of ${least} to ${1 << 22} pieces`, size);
  if (!(characterCoverage > 0 && characterCoverage <= 1))
    refuse("a character coverage above 0, at most 1", characterCoverage);
  if (!(Number.isInteger(longest) && longest >= 1 && longest <= 512))
    refuse("pieces of 1 to 512 characters", longest);
  if (!(Number.isInteger(leastCount) && leastCount >= 1)) refuse("a least count of 1 or more", leastCount);
}

function headPieces({ special, byteFallback }: SentencePieceOptions): Piece[] {
  const named = (text: string, type: number): Piece => ({ text, score: 0, type });
  const bytes = byteFallback ? 256 : 0;
  return [
    named("<unk>", pieceType.unknown),
    ...["<s>", "</s>", ...special].map((text) => named(text, pieceType.control)),
    ...Array.from({ length: bytes }, (_, byte) =>
      named(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`, pieceType.byte),
    ),
  ];
}

/** Characters by falling count, then by code point, until they make up the wanted share. */
function coveredCharacters(words: readonly (readonly [string, number])[], coverage: number): string[] {
  const counts = new Map<string, number>();
  let total = 0;
  for (const [word, count] of words) {
    for (const character of word) {
      counts.set(character, (counts.get(character) ?? 0) + count);
      total += count;
    }
  }
  const sorted = [...counts].sort(([a, n], [b, m]) => m - n || a.codePointAt(0)! - b.codePointAt(0)!);
  let covered = 0;
  let kept = 0;
  while (kept < sorted.length && covered < coverage * total) covered += sorted[kept++]![1];
  return sorted.slice(0, kept).map(([character]) => character);
}

/** Words cut where the class of characters changes and at characters without a piece; the mark belongs to what follows. */
function* runsOf(
  words: readonly (readonly [string, number])[],
  ids: ReadonlyMap<string, number>,
  splitDigits: boolean,
): Generator<readonly [number[], number]> {
  for (const [word, count] of words) {
    let run: number[] = [];
    let last: number | undefined;
    for (const character of word) {
      const id = ids.get(character);
      const kind = character === MARK ? undefined : classOf(character.codePointAt(0)!);
      const digit = splitDigits && /^\p{Nd}$/u.test(character);
      if (
        id === undefined ||
        digit ||
        (last !== undefined && kind !== undefined && kind !== 0 && kind !== last)
      ) {
        if (run.length > 1) yield [run, count];
        run = [];
        last = undefined;
      }
      if (id === undefined) continue;
      run.push(id);
      if (kind !== undefined && kind !== 0) last = kind;
    }
    if (run.length > 1) yield [run, count];
  }
}

function lengthOf(text: string): number {
  let length = 0;
  for (const _ of text) length++;
  return length;
}

const shorterThenByText: LearnOptions["before"] = (a, b, c, d, texts) => {
  const first = texts[a]! + texts[b]!;
  const second = texts[c]! + texts[d]!;
  return first.length - second.length || (first < second ? -1 : first > second ? 1 : a - c);
};

/**
 * The same tokenizer as a tokenizer.json: every way to make a piece of two others is a rule, the best score first, which
 * is how SentencePiece itself merges.
 */
export function sentencePieceJson(model: PieceModel): {
  readonly tokenizer: object;
  readonly config: object;
} {
  const { pieces } = model;
  const normal = new Map<string, number>();
  for (const [id, { text, type }] of pieces.entries()) if (type === pieceType.normal) normal.set(text, id);
  const merges: [rank: number, left: string, right: string][] = [];
  for (const [text, id] of normal) {
    for (let cut = 1; cut < text.length; cut++) {
      const [left, right] = [text.slice(0, cut), text.slice(cut)];
      if (normal.has(left) && normal.has(right)) merges.push([id, left, right]);
    }
  }
  merges.sort(([a, x], [b, y]) => pieces[b]!.score - pieces[a]!.score || a - b || x.length - y.length);
  const added = pieces.flatMap(({ text, type }, id) =>
    type === pieceType.control || type === pieceType.unknown
      ? [
          {
            ...{ id, content: text, single_word: false, lstrip: false, rstrip: false },
            normalized: false,
            special: true,
          },
        ]
      : [],
  );
  const mark = (content: string, pattern: string): object => ({
    type: "Replace",
    pattern: { String: pattern },
    content,
  });
  return {
    tokenizer: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer: { type: "Sequence", normalizers: [{ type: "Prepend", prepend: MARK }, mark(MARK, " ")] },
      pre_tokenizer: null,
      post_processor: null,
      decoder: {
        type: "Sequence",
        decoders: [
          mark(" ", MARK),
          { type: "ByteFallback" },
          { type: "Fuse" },
          { type: "Strip", content: " ", start: 1, stop: 0 },
        ],
      },
      model: {
        type: "BPE",
        ...{ dropout: null, unk_token: "<unk>", continuing_subword_prefix: null, end_of_word_suffix: null },
        ...{ fuse_unk: true, byte_fallback: model.byteFallback, ignore_merges: false },
        vocab: Object.fromEntries(pieces.map(({ text }, id) => [text, id])),
        merges: merges.map(([, left, right]) => [left, right]),
      },
    },
    config: {
      tokenizer_class: "PreTrainedTokenizerFast",
      ...{
        add_bos_token: false,
        add_eos_token: false,
        bos_token: "<s>",
        eos_token: "</s>",
        unk_token: "<unk>",
      },
      clean_up_tokenization_spaces: false,
    },
  };
}
