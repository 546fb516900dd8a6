import { unexpected } from "../../core/error.ts";
import type { EncodeText } from "./byte_level.ts";
import { type MergeRules, mergeSymbols } from "./merge.ts";
import { PairTable } from "./pairs.ts";
import { PieceCache } from "./piece_cache.ts";
import { eachPiece } from "./piece_windows.ts";
import { TokenType, type Vocabulary } from "./vocabulary.ts";

/** U+2581 stands for a blank in vocabularies over characters. */
export const MARK = "\u2581";
const MARK_UNIT = 0x2581;
const NEWLINE_UNIT = 10;
const MAX_REMEMBERED_PAIRS = 1 << 20;

/** The UTF-8 bytes of a token over characters, its marks turned back into blanks. */
export function markBytes(text: string): Uint8Array {
  return Buffer.from(text.replaceAll(MARK, " ").toWellFormed(), "utf8");
}

/** Merge rules from scores: two symbols join when their texts together are a token; higher scores go first. */
export function scoreRules(vocabulary: Vocabulary, scores: ArrayLike<number>): MergeRules {
  const { texts } = vocabulary;
  const order = Float64Array.from(new Set(Array.from(scores)))
    .sort()
    .reverse();
  const rankOf = new Map(Array.from(order, (score, rank) => [score, rank]));
  const rank = Int32Array.from(texts, (_, id) => rankOf.get(scores[id] ?? 0) ?? 0);
  let longest = 0;
  for (const text of texts) longest = Math.max(longest, text.length);
  const known = new PairTable(1 << 10);
  // A character without a token is the symbol past the vocabulary by its code point; it may still be part of one.
  const symbolText = (symbol: number): string => texts[symbol] ?? String.fromCodePoint(symbol - texts.length);
  const find = (left: number, right: number): number => {
    const remembered = known.get(left, right, -2);
    if (remembered !== -2) return remembered;
    const [leftText, rightText] = [symbolText(left), symbolText(right)];
    const fits = leftText.length + rightText.length <= longest;
    const id = fits ? (vocabulary.plainId(leftText + rightText) ?? -1) : -1;
    if (known.size >= MAX_REMEMBERED_PAIRS) known.clear();
    known.add(left, right, id);
    return id;
  };
  return { find, rank, result: Int32Array.from(texts, (_, id) => id) };
}

export type CharacterOptions = {
  /** A piece that is itself a token is taken whole before any merge. */
  readonly ignoreMerges: boolean;
  /** Neighbouring characters without a token become one unknown token instead of one each. */
  readonly fuseUnknown: boolean;
  /** Characters without a token are spelled by the tokens `<0x00>` to `<0xFF>` where there are such. */
  readonly byteFallback: boolean;
};

/** BPE over characters. Text must be well-formed, with its blanks already turned into marks. */
export function characterEncoder(
  vocabulary: Vocabulary,
  rules: MergeRules,
  options: CharacterOptions,
): EncodeText {
  const cuts = cutTable(vocabulary);
  const symbolOf = symbolTable(vocabulary);
  const spell = speller(vocabulary, options);
  const cache = new PieceCache();

  const encodePiece = (piece: string, out: number[]): void => {
    const whole = options.ignoreMerges ? vocabulary.plainId(piece) : undefined;
    if (whole !== undefined) {
      out.push(whole);
      return;
    }
    const symbols = new Int32Array(piece.length);
    let count = 0;
    for (let i = 0; i < piece.length; i++) {
      const codePoint = piece.codePointAt(i) as number;
      if (codePoint > 0xffff) i++;
      symbols[count++] = symbolOf(codePoint);
    }
    spell(symbols, mergeSymbols(symbols, count, rules), out);
  };

  return (text, out) => {
    const encode = (piece: string): void => encodePiece(piece, out);
    return eachPiece(text, cuts, (part, start, end) => cache.append(part, start, end, out, encode));
  };
}

/**
 * Where text may be cut without changing the result: before a mark or newline that no token has after the character
 * that stands there. Then words can be encoded, and remembered, one by one.
 */
function cutTable(vocabulary: Vocabulary): (text: string, start: number) => number {
  const joinsMark = new Uint8Array(65536);
  const joinsNewline = new Uint8Array(65536);
  for (const text of vocabulary.texts) {
    for (let at = text.indexOf(MARK, 1); at > 0; at = text.indexOf(MARK, at + 1)) {
      joinsMark[text.charCodeAt(at - 1)] = 1;
    }
    for (let at = text.indexOf("\n", 1); at > 0; at = text.indexOf("\n", at + 1)) {
      joinsNewline[text.charCodeAt(at - 1)] = 1;
    }
  }
  return (text, start) => {
    let before = text.charCodeAt(start);
    for (let end = start + 1; end < text.length; end++) {
      const unit = text.charCodeAt(end);
      if (unit === MARK_UNIT && joinsMark[before] === 0) return end;
      if (unit === NEWLINE_UNIT && joinsNewline[before] === 0) return end;
      before = unit;
    }
    return text.length;
  };
}

/** The symbol of a character: its token, or vocabulary size + code point. */
function symbolTable(vocabulary: Vocabulary): (codePoint: number) => number {
  const remembered = new Int32Array(65536).fill(-1);
  const look = (codePoint: number): number =>
    vocabulary.plainId(String.fromCodePoint(codePoint)) ?? vocabulary.texts.length + codePoint;
  return (codePoint) => {
    if (codePoint > 0xffff) return look(codePoint);
    const known = remembered[codePoint] as number;
    if (known >= 0) return known;
    const symbol = look(codePoint);
    remembered[codePoint] = symbol;
    return symbol;
  };
}

/** Turns symbols into ids: characters without a token become byte tokens or the unknown token. */
function speller(
  vocabulary: Vocabulary,
  options: CharacterOptions,
): (symbols: Int32Array, count: number, out: number[]) => void {
  const size = vocabulary.texts.length;
  const byteIds = byteTokens(vocabulary);
  const { unknown } = vocabulary.roles;
  return (symbols, count, out) => {
    let afterUnknown = false;
    for (let i = 0; i < count; i++) {
      const symbol = symbols[i] as number;
      if (symbol < size) {
        out.push(symbol);
        afterUnknown = false;
        continue;
      }
      const character = String.fromCodePoint(symbol - size);
      const bytes = Array.from(Buffer.from(character, "utf8"), (byte) => byteIds[byte] as number);
      if (options.byteFallback && bytes.every((id) => id >= 0)) {
        out.push(...bytes);
        afterUnknown = false;
        continue;
      }
      if (unknown === undefined) throw missingCharacter(character);
      if (!(afterUnknown && options.fuseUnknown)) out.push(unknown);
      afterUnknown = true;
    }
  };
}

function byteTokens(vocabulary: Vocabulary): Int32Array {
  const ids = new Int32Array(256).fill(-1);
  vocabulary.texts.forEach((text, id) => {
    if (vocabulary.types[id] !== TokenType.byte) return;
    const byte = Number.parseInt(text.slice(3, 5), 16);
    if ((ids[byte] ?? 0) < 0) ids[byte] = id;
  });
  return ids;
}

function missingCharacter(character: string): Error {
  const codePoint = (character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0");
  const got = `U+${codePoint}, which has no token`;
  return unexpected("invalid_request", "tokenizer", "text that the vocabulary can express", got);
}
