import { unexpected } from "../../core/error.ts";
import { runAll, type Steps } from "../../core/steps.ts";
import type { EncodeText } from "./byte_level.ts";
import { classAt, runEnd, SPACE } from "./characters.ts";
import { decodeBytes, type StreamDecoder, streamDecoder } from "./decode.ts";
import { SpecialMatcher, type SpecialToken } from "./special.ts";
import { type TokenRoles, TokenType, type Vocabulary } from "./vocabulary.ts";

export type EncodeOptions = {
  /** Control tokens written out in the text become those tokens: right for rendered templates, wrong for user text. */
  readonly special: boolean;
  /** Begin with BOS unless the text already does; by default as the file says. */
  readonly bos?: boolean;
  /** End with EOS; by default as the file says. */
  readonly eos?: boolean;
};

export type DecodeOptions = {
  /** Control tokens appear as their text; otherwise as nothing. */
  readonly special?: boolean;
  /** The ids continue a text, so a leading blank of the first word is kept. */
  readonly continuation?: boolean;
};

/** The tokens of a long text, in order. */
export type TokenParts = readonly (readonly number[])[];

/** Text to token ids and back, for one vocabulary. */
export interface Tokenizer {
  /** `gpt2` byte-level BPE, `llama` SentencePiece with scores or merges, `gemma4` merges over characters. */
  readonly kind: "gpt2" | "llama" | "gemma4";
  /** The pre-tokenizer's name, "" where the kind has none. */
  readonly pre: string;
  readonly vocabularySize: number;
  /** No token stands for more of a text than this, UTF-16 units. */
  readonly longestToken: number;
  readonly roles: TokenRoles;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  readonly addBos: boolean;
  readonly addEos: boolean;
  /** Tokens that end a generation. */
  readonly stopTokens: ReadonlySet<number>;
  encode(text: string, options: EncodeOptions): number[];
  /** The same in steps, as parts. May end beyond `most` tokens, with some more than these of the beginning. */
  encodeSteps(text: string, options: EncodeOptions, most?: number): Steps<TokenParts>;
  /** Text of the ids; bytes that are not UTF-8 become U+FFFD. */
  decode(ids: Iterable<number>, options?: DecodeOptions): string;
  /** The bytes that a token adds to the text; those of its name for a control token. Must not be written. */
  tokenBytes(id: number): Uint8Array;
  /** A token as the vocabulary spells it. */
  tokenText(id: number): string;
  isControl(id: number): boolean;
  idOf(tokenText: string): number | undefined;
  /** Decodes one id at a time; by default as the continuation of a text. */
  streamDecoder(options?: DecodeOptions): StreamDecoder;
}

/** What the constructors for the file formats put together. */
export type TokenizerParts = {
  readonly kind: Tokenizer["kind"];
  readonly pre: string;
  readonly vocabulary: Vocabulary;
  readonly addBos: boolean;
  readonly addEos: boolean;
  readonly encodeText: EncodeText;
  /** The bytes of a normal token from its text. */
  readonly bytesOf: (text: string) => Uint8Array;
  /** Encoding puts a blank before the first word, which decoding a whole text takes away. */
  readonly spacePrefix: boolean;
  /** Special tokens whose matching takes white space along, by id. */
  readonly strips?: ReadonlyMap<number, { readonly left: boolean; readonly right: boolean }>;
};

/** Longer texts are refused: positions in the merge queue have 27 bits. UTF-16 units. */
const MAX_TEXT_UNITS = 1 << 25;

export function makeTokenizer(parts: TokenizerParts): Tokenizer {
  const { vocabulary, kind, pre, addBos, addEos } = parts;
  const { texts, types, roles, stopTokens, idOf } = vocabulary;
  const always = new SpecialMatcher(specialTokens(parts, false));
  const all = new SpecialMatcher(specialTokens(parts, true));
  const bytesCache: (Uint8Array | undefined)[] = [];

  const check = (id: number): void => {
    if (Number.isInteger(id) && id >= 0 && id < texts.length) return;
    throw unexpected("invalid_argument", "tokenizer", `a token id below ${texts.length}`, String(id));
  };
  const isControl = (id: number): boolean => {
    check(id);
    return types[id] === TokenType.control || types[id] === TokenType.unknown;
  };
  const tokenBytes = (id: number): Uint8Array => {
    check(id);
    const known = bytesCache[id];
    if (known !== undefined) return known;
    const bytes = bytesOfToken(parts, id);
    bytesCache[id] = bytes;
    return bytes;
  };
  const source = { tokenBytes, isControl, spacePrefix: parts.spacePrefix };

  const encodeInto = (ids: number[], text: string, special: boolean): Steps<void> => {
    if (text.length > MAX_TEXT_UNITS) {
      const expected = `text of at most ${MAX_TEXT_UNITS} characters`;
      throw unexpected("invalid_request", "tokenizer", expected, text.length);
    }
    return encodeAround(special ? all : always, text.toWellFormed(), parts.encodeText, ids);
  };
  const encode = (text: string, { special, bos = addBos, eos = addEos }: EncodeOptions): number[] => {
    const ids: number[] = [];
    runAll(encodeInto(ids, text, special));
    if (bos && ids[0] !== role("BOS", roles.bos)) ids.unshift(role("BOS", roles.bos));
    if (eos && ids[ids.length - 1] !== role("EOS", roles.eos)) ids.push(role("EOS", roles.eos));
    return ids;
  };
  function* encodeSteps(
    text: string,
    { special, bos = addBos, eos = addEos }: EncodeOptions,
    most = Number.POSITIVE_INFINITY,
  ): Steps<TokenParts> {
    const ids: number[] = [];
    const taken: number[][] = [];
    let length = 0;
    const rest = encodeInto(ids, text, special);
    while (!rest.next().done && length + ids.length <= most) {
      if (ids.length > PART_TOKENS) {
        // the last stays: it tells encoders that the text has begun
        taken.push(ids.splice(0, ids.length - 1));
        length += taken.at(-1)!.length;
      }
      yield;
    }
    const first = taken[0]?.[0] ?? ids[0];
    if (eos && ids.at(-1) !== role("EOS", roles.eos)) ids.push(role("EOS", roles.eos));
    const all = [...taken, ids];
    return bos && first !== role("BOS", roles.bos) ? [[role("BOS", roles.bos)], ...all] : all;
  }

  return {
    kind,
    pre,
    vocabularySize: texts.length,
    longestToken: texts.reduce((most, { length }) => Math.max(most, length), 1),
    roles,
    bos: roles.bos,
    eos: roles.eos,
    addBos,
    addEos,
    stopTokens,
    encode,
    encodeSteps,
    decode: (ids, options = {}) => decodeBytes(source, ids, options),
    tokenBytes,
    tokenText: (id) => {
      check(id);
      return texts[id] as string;
    },
    isControl,
    idOf,
    streamDecoder: (options = {}) => streamDecoder(source, { continuation: true, ...options }),
  };
}

/** Tokens of one part: an array of all of a long text's would be copied for hundreds of milliseconds when it grows. */
const PART_TOKENS = 1 << 15;

/** In how many units special tokens are looked for in one step, and how many of them are taken. */
const SEARCHED_UNITS = 1 << 16;
const TAKEN_TOKENS = 1 << 10;

/** Cuts well-formed text at special tokens and encodes what lies between, appended to `ids`. */
function* encodeAround(
  matcher: SpecialMatcher,
  text: string,
  encodeText: EncodeText,
  ids: number[],
): Steps<void> {
  let from = 0;
  let taken = 0;
  for (let searched = 0; searched < text.length; ) {
    const until = Math.min(text.length, searched + SEARCHED_UNITS);
    const match = matcher.next(text, searched, until);
    searched = until;
    if (match === undefined) {
      if (until < text.length) yield;
      continue;
    }
    const { start, token } = match;
    const before = text.slice(from, start);
    if (start > from) yield* encodeText(token.stripLeft ? trimEnd(before) : before, ids);
    ids.push(token.id);
    from = start + token.text.length;
    if (token.stripRight) from = runEnd(text, from, SPACE);
    searched = from;
    if (++taken % TAKEN_TOKENS === 0) yield;
  }
  if (from < text.length) yield* encodeText(from === 0 ? text : text.slice(from), ids);
}

/** Without the White_Space at the end. */
function trimEnd(text: string): string {
  let end = text.length;
  while (end > 0 && (classAt(text, end - 1) & SPACE) !== 0) end--;
  return text.slice(0, end);
}

function* specialTokens(parts: TokenizerParts, control: boolean): Iterable<SpecialToken> {
  const { texts, types } = parts.vocabulary;
  for (let id = 0; id < texts.length; id++) {
    const type = types[id];
    const wanted =
      type === TokenType.userDefined ||
      (control && (type === TokenType.control || type === TokenType.unknown));
    if (!wanted) continue;
    const strip = parts.strips?.get(id);
    yield {
      id,
      text: texts[id] as string,
      stripLeft: strip?.left ?? false,
      stripRight: strip?.right ?? false,
    };
  }
}

function bytesOfToken(parts: TokenizerParts, id: number): Uint8Array {
  const text = parts.vocabulary.texts[id] as string;
  switch (parts.vocabulary.types[id]) {
    case TokenType.control:
    case TokenType.unknown:
      return Buffer.from(text, "utf8");
    case TokenType.userDefined:
      // Byte-level files store these as plain text, not in the byte alphabet.
      return parts.kind === "gpt2" ? Buffer.from(text, "utf8") : parts.bytesOf(text);
    case TokenType.byte:
      return Uint8Array.of(Number.parseInt(text.slice(3, 5), 16));
    default:
      return parts.bytesOf(text);
  }
}

function role(name: string, id: number | undefined): number {
  if (id !== undefined) return id;
  const fix = "The model file names none; ask for encoding without it";
  throw unexpected("unsupported", "tokenizer", `a vocabulary with a ${name} token`, "one without", { fix });
}
