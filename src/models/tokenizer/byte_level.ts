import { unexpected } from "../../core/error.ts";
import type { Steps } from "../../core/steps.ts";
import { type MergeRules, mergeSymbols } from "./merge.ts";
import { PairTable } from "./pairs.ts";
import { PieceCache } from "./piece_cache.ts";
import { eachPiece } from "./piece_windows.ts";
import type { Split } from "./split.ts";
import { isReserved, type Vocabulary } from "./vocabulary.ts";

/** Turns text without special tokens into ids, appended to `out`. */
export type EncodeText = (text: string, out: number[]) => Steps<void>;

/** Merge rule `i` of a file: the texts of its two sides. */
export type Merges = {
  readonly length: number;
  readonly at: (index: number) => readonly [left: string, right: string];
};

/** The byte alphabet of byte-level BPE: printable bytes stand for themselves, the rest for U+0100 and up. */
export const alphabet: readonly string[] = makeAlphabet();
/** The byte for a code unit of the alphabet, or -1. */
const byteOfUnit = makeInverse();

function makeAlphabet(): string[] {
  const printable = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let other = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : other++));
}

function makeInverse(): Int16Array {
  const inverse = new Int16Array(65536).fill(-1);
  alphabet.forEach((character, byte) => {
    inverse[character.charCodeAt(0)] = byte;
  });
  return inverse;
}

/** The bytes that a token's text stands for; characters outside the alphabet stand for their UTF-8. */
export function alphabetBytes(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) {
    const byte = byteOfUnit[text.charCodeAt(i)] ?? -1;
    if (byte < 0) return Buffer.concat(Array.from(text, (c) => alphabetOrUtf8(c)));
    bytes[i] = byte;
  }
  return bytes;
}

function alphabetOrUtf8(character: string): Uint8Array {
  const byte = character.length === 1 ? (byteOfUnit[character.charCodeAt(0)] ?? -1) : -1;
  return byte < 0 ? Buffer.from(character.toWellFormed(), "utf8") : Uint8Array.of(byte);
}

/**
 * Merge rules over token ids. A rule that names no token, or whose result is none, is an error: the file is damaged.
 * A rule that would form a control, unknown or byte token is left out: plain text must not become one.
 */
export function mergeRules(merges: Merges, vocabulary: Vocabulary): MergeRules {
  const table = new PairTable(merges.length);
  const result = new Int32Array(merges.length);
  const rank = Int32Array.from(result, (_, i) => i);
  const { texts } = vocabulary;
  let expected = -1;
  for (let i = 0; i < merges.length; i++) {
    const [leftText, rightText] = merges.at(i);
    const left = ruleToken(vocabulary, leftText, i);
    const right = ruleToken(vocabulary, rightText, i);
    const mergedText = leftText + rightText;
    // Rules mostly come in the order of their results, and a comparison costs less than a look-up.
    const merged = texts[expected] === mergedText ? expected : ruleToken(vocabulary, mergedText, i);
    expected = merged + 1;
    if (isReserved(vocabulary.types[merged])) continue;
    result[i] = merged;
    table.add(left, right, i);
  }
  return { find: (left, right) => table.get(left, right, -1), rank, result };
}

function ruleToken(vocabulary: Vocabulary, text: string, rule: number): number {
  const id = vocabulary.plainId(text) ?? vocabulary.idOf(text);
  if (id !== undefined) return id;
  const got = JSON.stringify(text.slice(0, 60));
  throw unexpected("file_malformed", `tokenizer merges, rule ${rule}`, "tokens of the vocabulary", got);
}

/** Byte-level BPE: pieces by `split`, then merges over their UTF-8 bytes. Text must be well-formed. */
export function byteLevelEncoder(
  vocabulary: Vocabulary,
  rules: MergeRules,
  options: { readonly split: Split; readonly ignoreMerges: boolean },
): EncodeText {
  const byteIds = Int32Array.from(alphabet, (character) => vocabulary.plainId(character) ?? -1);
  const cache = new PieceCache();
  const { split, ignoreMerges } = options;
  let scratch = new Int32Array(1024);

  const encodePiece = (piece: string, out: number[]): void => {
    const whole = ignoreMerges ? wholeToken(vocabulary, piece) : undefined;
    if (whole !== undefined) {
      out.push(whole);
      return;
    }
    if (scratch.length < piece.length * 3) scratch = new Int32Array(piece.length * 3);
    const symbols = scratch;
    let count = 0;
    const add = (byte: number): void => {
      const id = byteIds[byte] as number;
      symbols[count++] = id >= 0 ? id : missingByte(vocabulary, byte);
    };
    if (isAscii(piece)) for (let i = 0; i < piece.length; i++) add(piece.charCodeAt(i));
    else for (const byte of Buffer.from(piece, "utf8")) add(byte);
    const left = mergeSymbols(symbols, count, rules);
    for (let i = 0; i < left; i++) out.push(symbols[i] as number);
  };

  return (text, out) => {
    const encode = (piece: string): void => encodePiece(piece, out);
    return eachPiece(text, split, (part, start, end) => cache.append(part, start, end, out, encode));
  };
}

const MAX_WHOLE_UNITS = 1024;

/** The token that is the whole piece, if there is one. */
function wholeToken(vocabulary: Vocabulary, piece: string): number | undefined {
  if (piece.length > MAX_WHOLE_UNITS) return undefined;
  if (/^[!-~]*$/.test(piece)) return vocabulary.plainId(piece);
  if (/^ [!-~]*$/.test(piece)) return vocabulary.plainId(`${alphabet[32]}${piece.slice(1)}`);
  let text = "";
  for (const byte of Buffer.from(piece, "utf8")) text += alphabet[byte];
  return vocabulary.plainId(text);
}

function isAscii(piece: string): boolean {
  for (let i = 0; i < piece.length; i++) if (piece.charCodeAt(i) > 127) return false;
  return true;
}

function missingByte(vocabulary: Vocabulary, byte: number): number {
  const { unknown } = vocabulary.roles;
  if (unknown !== undefined) return unknown;
  const got = `the byte 0x${byte.toString(16).padStart(2, "0")}, which has no token`;
  throw unexpected("invalid_request", "tokenizer", "text that the vocabulary can express", got);
}
