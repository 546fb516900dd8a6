import {
  CASELESS,
  classAt,
  LETTER,
  LOWER,
  MARK,
  NEWLINE,
  NUMBER,
  runEnd,
  SPACE,
  UPPER,
  widthAt,
} from "./characters.ts";

/**
 * A pre-tokenizer: the end of the piece that begins at `start` (UTF-16 units, start < text.length) of well-formed text.
 * Each is a published regular expression written out as a scanner that visits a character at most a few times.
 */
export type Split = (text: string, start: number) => number;

const APOSTROPHE = 39;
const SLASH = 47;
const LONG_S = 0x17f;

/** The end of an English contraction ('s 't 're 've 'm 'll 'd) at `at`, or `at` when there is none. */
function contractionEnd(text: string, at: number, anyCase: boolean): number {
  if (text.charCodeAt(at) !== APOSTROPHE) return at;
  const lower = (index: number): number => {
    const unit = text.charCodeAt(index);
    if (!anyCase) return unit;
    // The reference engines fold case by Unicode, where the long s is an s.
    if (unit === LONG_S) return 115;
    return unit >= 65 && unit <= 90 ? unit + 32 : unit;
  };
  const first = lower(at + 1);
  switch (first) {
    case 115: // s
    case 116: // t
    case 109: // m
    case 100: // d
      return at + 2;
    case 114: // re
    case 118: // ve
      return lower(at + 2) === 101 ? at + 3 : at;
    case 108: // ll
      return lower(at + 2) === 108 ? at + 3 : at;
    default:
      return at;
  }
}

/** `\s*[\r\n]+|\s+(?!\S)|\s+`, or without the first alternative. */
function whiteSpaceEnd(text: string, start: number, newlinesFirst: boolean): number {
  let end = start;
  let afterNewline = start;
  while (end < text.length) {
    const bits = classAt(text, end);
    if ((bits & SPACE) === 0) break;
    end++;
    if ((bits & NEWLINE) !== 0) afterNewline = end;
  }
  if (newlinesFirst && afterNewline > start) return afterNewline;
  // The last blank before a word is left to the word.
  return end < text.length && end - start > 1 ? end - 1 : end;
}

function numberEnd(text: string, start: number, most: number): number {
  let end = start;
  for (let digits = 0; digits < most && end < text.length; digits++) {
    if ((classAt(text, end) & NUMBER) === 0) break;
    end += widthAt(text, end);
  }
  return end;
}

/** ` ?[^...]+[\r\n]*` (with `/` among the last when `slash`): `start` itself when no symbol stands there. */
function symbolsEnd(text: string, start: number, excluded: number, slash: boolean): number {
  const from = text.charCodeAt(start) === 32 ? start + 1 : start;
  let end = from;
  while (end < text.length && (classAt(text, end) & excluded) === 0) end += widthAt(text, end);
  if (end === from) return start;
  while (end < text.length) {
    const unit = text.charCodeAt(end);
    if (unit !== 10 && unit !== 13 && !(slash && unit === SLASH)) break;
    end++;
  }
  return end;
}

/** qwen2, qwen35 and llama3: contractions first, then words of `letters` with one leading symbol. */
function wordSplit(letters: number, digits: number): Split {
  const notSymbol = SPACE | NUMBER | letters;
  return (text, start) => {
    const contraction = contractionEnd(text, start, true);
    if (contraction > start) return contraction;
    const bits = classAt(text, start);
    if ((bits & letters) !== 0) return runEnd(text, start, letters);
    if ((bits & (NEWLINE | NUMBER)) === 0) {
      const next = start + widthAt(text, start);
      const end = runEnd(text, next, letters);
      if (end > next) return end;
    }
    if ((bits & NUMBER) !== 0) return numberEnd(text, start, digits);
    const symbols = symbolsEnd(text, start, notSymbol, false);
    return symbols > start ? symbols : whiteSpaceEnd(text, start, true);
  };
}

/**
 * `U*L+` and then `U+L*` at `at`, where U and L both hold caseless letters and marks; `at` when neither matches.
 * When no lower-case letter follows the run of U, the expression gives back characters up to the last that is also an L.
 */
function casedWordEnd(text: string, at: number): number {
  let end = at;
  let afterShared = at;
  while (end < text.length) {
    const bits = classAt(text, end);
    if ((bits & (UPPER | CASELESS | MARK)) === 0) break;
    end += widthAt(text, end);
    if ((bits & (CASELESS | MARK)) !== 0) afterShared = end;
  }
  const lowerEnd = runEnd(text, end, LOWER | CASELESS | MARK);
  if (lowerEnd > end) return lowerEnd;
  return afterShared > at ? afterShared : end;
}

/** gpt-4o, and tekken, which has neither contractions nor grouped digits. */
function casedSplit(digits: number, contractions: boolean): Split {
  const wordEnd = (text: string, start: number, bits: number): number => {
    if ((bits & LETTER) !== 0) return casedWordEnd(text, start);
    if ((bits & (NUMBER | NEWLINE)) !== 0) return start;
    const next = start + widthAt(text, start);
    const end = casedWordEnd(text, next);
    if ((bits & MARK) === 0) return end > next ? end : start;
    // A mark can lead a word or be one: it leads unless only capitals follow, which must not be lost to a mark.
    return end > next && (classAt(text, lastCharacter(text, end)) & UPPER) === 0 ? end : next;
  };
  return (text, start) => {
    const bits = classAt(text, start);
    const word = wordEnd(text, start, bits);
    if (word > start) return contractions ? contractionEnd(text, word, true) : word;
    if ((bits & NUMBER) !== 0) return numberEnd(text, start, digits);
    const symbols = symbolsEnd(text, start, SPACE | LETTER | NUMBER, true);
    return symbols > start ? symbols : whiteSpaceEnd(text, start, true);
  };
}

function lastCharacter(text: string, end: number): number {
  return (text.charCodeAt(end - 1) & 0xfc00) === 0xdc00 ? end - 2 : end - 1;
}

/** gpt-2: contractions in lower case, runs of letters, digits or symbols with one leading blank. */
const plainSplit: Split = (text, start) => {
  const contraction = contractionEnd(text, start, false);
  if (contraction > start) return contraction;
  const from = text.charCodeAt(start) === 32 ? start + 1 : start;
  if (from < text.length) {
    const bits = classAt(text, from);
    if ((bits & LETTER) !== 0) return runEnd(text, from, LETTER);
    if ((bits & NUMBER) !== 0) return runEnd(text, from, NUMBER);
    if ((bits & SPACE) === 0) {
      let end = from;
      while (end < text.length && (classAt(text, end) & (SPACE | LETTER | NUMBER)) === 0) {
        end += widthAt(text, end);
      }
      return end;
    }
  }
  return whiteSpaceEnd(text, start, false);
};

/** What the name of a pre-tokenizer stands for. */
export type PreTokenizer = {
  readonly split: Split;
  /** The expression as published, in the spelling of tokenizer.json files. */
  readonly pattern: string;
  /** A piece that is itself a token is taken whole before any merge. */
  readonly ignoreMerges: boolean;
  readonly addBos: boolean;
  /** Text is brought to Unicode NFC first, as the checkpoints of the family declare. */
  readonly nfc: boolean;
};

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const tail = "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
const lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
const lead = "[^\\r\\n\\p{L}\\p{N}]?";
const wordPattern = (letters: string, digits: string, symbols: string): string =>
  `${contractions}|${lead}${letters}+|${digits}| ?[^\\s${symbols}]+[\\r\\n]*${tail}`;
const casedPattern = (digits: string, suffix: string): string =>
  `${lead}${upper}*${lower}+${suffix}|${lead}${upper}+${lower}*${suffix}|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*${tail}`;

const plain: PreTokenizer = {
  split: plainSplit,
  pattern: "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
  ignoreMerges: false,
  addBos: false,
  nfc: false,
};
const gpt4o: PreTokenizer = {
  split: casedSplit(3, true),
  pattern: casedPattern("\\p{N}{1,3}", `${contractions}?`),
  ignoreMerges: true,
  addBos: false,
  nfc: false,
};
const llama3: PreTokenizer = {
  split: wordSplit(LETTER, 3),
  pattern: wordPattern("\\p{L}", "\\p{N}{1,3}", "\\p{L}\\p{N}"),
  ignoreMerges: true,
  addBos: true,
  nfc: false,
};
const qwen2: PreTokenizer = {
  split: wordSplit(LETTER, 1),
  pattern: wordPattern("\\p{L}", "\\p{N}", "\\p{L}\\p{N}"),
  ignoreMerges: false,
  addBos: false,
  nfc: true,
};
const qwen35: PreTokenizer = {
  split: wordSplit(LETTER | MARK, 1),
  pattern: wordPattern("[\\p{L}\\p{M}]", "\\p{N}", "\\p{L}\\p{M}\\p{N}"),
  ignoreMerges: false,
  addBos: false,
  nfc: true,
};
const tekken: PreTokenizer = {
  split: casedSplit(1, false),
  pattern: casedPattern("\\p{N}", ""),
  ignoreMerges: true,
  addBos: true,
  nfc: false,
};

/** Pre-tokenizers by the names that `tokenizer.ggml.pre` uses. */
export const preTokenizers: ReadonlyMap<string, PreTokenizer> = new Map([
  ["gpt-2", plain],
  ["default", plain],
  ["gpt-4o", gpt4o],
  ["llama-bpe", llama3],
  ["llama3", llama3],
  ["llama-v3", llama3],
  ["qwen2", qwen2],
  ["qwen35", qwen35],
  ["tekken", tekken],
]);

/** The pieces of a text, for tests and for looking at a pre-tokenizer. */
export function pieces(split: Split, text: string): string[] {
  const result: string[] = [];
  for (let start = 0; start < text.length; ) {
    const end = split(text, start);
    result.push(text.slice(start, end));
    start = end;
  }
  return result;
}
