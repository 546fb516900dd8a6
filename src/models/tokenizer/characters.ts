/** Bits of a character's class, as the pre-tokenizers tell characters apart. */
export const UPPER = 1; // Lu, Lt
export const LOWER = 2; // Ll
export const CASELESS = 4; // Lm, Lo
export const MARK = 8; // M
export const NUMBER = 16; // N
export const SPACE = 32; // White_Space, the newlines included
export const NEWLINE = 64; // \r and \n
export const LETTER = UPPER | LOWER | CASELESS;

const KNOWN = 128;

/** Class by code point, filled as characters are met: testing all of Unicode would cost more than most programs use. */
const classes = new Uint8Array(0x110000);

// White_Space of Unicode; JavaScript's \s has U+FEFF in addition and lacks U+0085.
const whiteSpace = /^[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]$/u;

function classify(codePoint: number): number {
  const character = String.fromCodePoint(codePoint);
  let bits = KNOWN;
  if (/^[\p{Lu}\p{Lt}]$/u.test(character)) bits |= UPPER;
  else if (/^\p{Ll}$/u.test(character)) bits |= LOWER;
  else if (/^[\p{Lm}\p{Lo}]$/u.test(character)) bits |= CASELESS;
  else if (/^\p{M}$/u.test(character)) bits |= MARK;
  else if (/^\p{N}$/u.test(character)) bits |= NUMBER;
  else if (whiteSpace.test(character)) bits |= SPACE;
  if (codePoint === 10 || codePoint === 13) bits |= NEWLINE;
  classes[codePoint] = bits;
  return bits;
}

/** The class bits of the character at `index` of well-formed text. */
export function classAt(text: string, index: number): number {
  const unit = text.charCodeAt(index);
  const codePoint = (unit & 0xfc00) === 0xd800 ? (text.codePointAt(index) ?? 0) : unit;
  return classes[codePoint] || classify(codePoint);
}

/** UTF-16 units of the character at `index` of well-formed text: 1 or 2. */
export function widthAt(text: string, index: number): number {
  return (text.charCodeAt(index) & 0xfc00) === 0xd800 ? 2 : 1;
}

/** The end of the run, from `index` on, of characters whose class has one of `bits`. */
export function runEnd(text: string, index: number, bits: number): number {
  let end = index;
  while (end < text.length && (classAt(text, end) & bits) !== 0) end += widthAt(text, end);
  return end;
}
