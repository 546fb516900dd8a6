/**
 * Which characters may stand together in a SentencePiece piece: those of one script, and digits and
 * symbols, which have none, among themselves. Marks go with what they follow.
 */
const scripts = [
  ..."Latin Greek Cyrillic Armenian Hebrew Arabic Syriac Thaana Devanagari Bengali Gurmukhi Gujarati Oriya".split(
    " ",
  ),
  ..."Tamil Telugu Kannada Malayalam Sinhala Thai Lao Tibetan Myanmar Georgian Hangul Ethiopic Cherokee".split(
    " ",
  ),
  ..."Khmer Mongolian Bopomofo Yi Tagalog Runic Ogham Coptic Gothic Glagolitic Tifinagh Nko Balinese".split(
    " ",
  ),
  ..."Javanese Sundanese Cham Vai Lisu Bamum Limbu Lepcha Buginese Canadian_Aboriginal Braille".split(" "),
];

/** Chinese characters and the two Japanese alphabets are written in one word. */
const han = /^[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\u30fc]$/u;
const tests = scripts.map((name) => new RegExp(`^\\p{Script=${name}}$`, "u"));

const OTHER = 1;
const HAN = 2;
/** Class 0 goes with whatever stands before it. */
const FOLLOWS = 0;

const known = new Map<number, number>();

/** The class of a code point; two of different classes never stand in one piece. */
export function classOf(codePoint: number): number {
  const found = known.get(codePoint);
  if (found !== undefined) return found;
  const character = String.fromCodePoint(codePoint);
  let result = OTHER;
  if (/^[\p{M}\u200d]$/u.test(character)) result = FOLLOWS;
  else if (han.test(character)) result = HAN;
  else {
    const script = tests.findIndex((test) => test.test(character));
    if (script >= 0) result = HAN + 1 + script;
  }
  known.set(codePoint, result);
  return result;
}
