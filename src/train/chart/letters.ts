/**
 * Letters as strokes of a pen, since a picture carries no font. A glyph is its width and its strokes, numbers in base 36: a
 * stroke is points as pairs x y, or after `@` an arc: centre, radii, and where it begins and ends in eighths of a turn,
 * clockwise from the right. Capitals stand between y 0 and 16, small letters from 6, tails reach 20.
 */
import type { Place } from "./drawing.ts";

const capHeight = 16;
/** Of a letter's size: how high capitals are, as in common sans-serif fonts. */
const capShare = 0.72;
/** Between two letters, and what a blank takes, in a glyph's units. */
const [gap, blank] = [5, 4];

const glyphs: Readonly<Record<string, string>> = {
  0: "a @585808",
  1: "a 23 50 5g|1g 9g",
  2: "a @555549|89 0g ag",
  3: "a @54445a|@5c546b",
  4: "a 7g 70 0b ab",
  5: "a 90 20 17|@5b555b",
  6: "a 0b 18 25 70|@5b5508",
  7: "a 00 a0 4g",
  8: "a @544408|@5c5408",
  9: "a a5 a7 8b 3g|@555508",
  A: "c 0g 60 cg|2a aa",
  B: "a 00 0g 5g|00 50|08 58|@54446a|@5c546a",
  C: "b @686817",
  D: "b 00 0g 4g|00 40|@48786a",
  E: "a a0 00 0g ag|08 88",
  F: "a a0 00 0g|08 88",
  G: "c @686817|78 b8 bd",
  H: "a 00 0g|a0 ag|08 a8",
  I: "0 00 0g",
  J: "7 70 7c|@4c3404",
  K: "a 00 0g|a0 0a|46 ag",
  L: "9 00 0g 9g",
  M: "c 0g 00 6b c0 cg",
  N: "a 0g 00 ag a0",
  O: "c @686808",
  P: "9 00 0g|00 50|08 58|@54446a",
  Q: "c @686808|7c cg",
  R: "a 00 0g|00 50|08 58|@54446a|58 ag",
  S: "a @545427|@5c546b",
  T: "c 00 c0|60 6g",
  U: "a 00 0b|a0 ab|@5b5504",
  V: "c 00 6g c0",
  W: "g 00 4g 81 cg g0",
  X: "a 00 ag|a0 0g",
  Y: "a 00 58 a0|58 5g",
  Z: "a 00 a0 0g ag",
  a: "8 @4b4508|86 8g",
  b: "8 @4b4508|00 0g",
  c: "7 @4b4517",
  d: "8 @4b4508|80 8g",
  e: "8 0b 8b|@4b4518",
  f: "6 3g 33|@633346|06 66",
  g: "8 @4b4508|86 8g|@4g4403",
  h: "8 00 0g|@4a4448|8a 8g",
  i: "0 06 0g|02 02",
  j: "3 36 3h|@1h2302|32 32",
  k: "8 00 0g|86 0c|3a 8g",
  l: "3 00 0d|@3d3324",
  m: "c 06 0g|@393348|69 6g|@993348|c9 cg",
  n: "8 06 0g|@4a4448|8a 8g",
  o: "8 @4b4508",
  p: "8 @4b4508|06 0k",
  q: "8 @4b4508|86 8k",
  r: "6 06 0g|@4a4447",
  s: "7 @483227|@4d336b",
  t: "6 32 3d|@6d3324|06 66",
  u: "8 06 0c|86 8g|@4c4404",
  v: "8 06 4g 86",
  w: "c 06 3g 66 9g c6",
  x: "8 06 8g|86 0g",
  y: "8 06 4g|86 4g 2k",
  z: "8 06 86 0g 8g",
  "-": "6 0a 6a",
  _: "a 0j aj",
  ".": "0 0g 0g",
  ",": "1 1f 0j",
  ":": "0 07 07|0g 0g",
  ";": "1 17 17|1f 0j",
  "/": "7 0i 70",
  "+": "a 0b ab|56 5g",
  "=": "a 09 a9|0d ad",
  "(": "4 40 13 06 0a 1d 4g",
  ")": "4 00 33 46 4a 3d 0g",
  "<": "8 87 0b 8f",
  ">": "8 07 8b 0f",
  "@": "g @888808|@883303|b5 ba",
};
/** Of what has no letter here. */
const box = "a 00 a0 ag 0g 00";

const at = (text: string, i: number): number => Number.parseInt(text[i]!, 36);

/** The points of a stroke. */
function traced(stroke: string): Place[] {
  if (!stroke.startsWith("@")) return stroke.split(" ").map((pair) => [at(pair, 0), at(pair, 1)] as const);
  const [x, y, rx, ry, from, to] = Array.from({ length: 6 }, (_, i) => at(stroke, i + 1)) as [
    ...[number, number, number, number, number, number],
  ];
  // an arc that ends before it begins goes on over the right
  const eighths = (to > from ? to : to + 8) - from;
  return Array.from({ length: 4 * eighths + 1 }, (_, i) => {
    const angle = ((from + i / 4) * Math.PI) / 4;
    return [x + rx * Math.cos(angle), y + ry * Math.sin(angle)] as const;
  });
}

const known = new Map<string, { readonly width: number; readonly strokes: readonly (readonly Place[])[] }>();

function glyph(letter: string): { readonly width: number; readonly strokes: readonly (readonly Place[])[] } {
  const present = known.get(letter);
  if (present) return present;
  const text = letter === " " ? undefined : Object.hasOwn(glyphs, letter) ? glyphs[letter]! : box;
  const made =
    text === undefined
      ? { width: blank, strokes: [] }
      : { width: at(text, 0), strokes: text.slice(2).split("|").map(traced) };
  known.set(letter, made);
  return made;
}

/** The strokes of a line of text whose base line begins (or ends) at a place. */
export function written(text: string, [x, y]: Place, size: number, anchor: "start" | "end"): Place[][] {
  const unit = (capShare * size) / capHeight;
  const letters = [...text].map(glyph);
  const width = letters.reduce((sum, g) => sum + g.width + gap, 0) - gap;
  let left = anchor === "end" ? x - width * unit : x;
  return letters.flatMap((g) => {
    const from = left;
    left += (g.width + gap) * unit;
    return g.strokes.map((points) =>
      points.map(([px, py]) => [from + px * unit, y + (py - capHeight) * unit] as const),
    );
  });
}
