/**
 * Sets of characters: code points as sorted, disjoint ranges [lo, hi, lo, hi, ...], without surrogates. How a character is
 * written is its encoding: `utf8` as it is, `json` as inside a JSON string (escaped where it must be, in the one usual way),
 * `jsonAny` the same with every escape that JSON has.
 */
export type CharSet = { readonly ranges: readonly number[]; readonly encoding: CharEncoding };
export type CharEncoding = "utf8" | "json" | "jsonAny";

export const lastCharacter = 0x10ffff;
const firstSurrogate = 0xd800;
const lastSurrogate = 0xdfff;

/** All characters. */
export const allRanges: readonly number[] = [0, firstSurrogate - 1, lastSurrogate + 1, lastCharacter];

/** Sorted, joined, and without surrogates. */
export function normalRanges(ranges: readonly number[]): number[] {
  const pairs: [number, number][] = [];
  for (let i = 0; i < ranges.length; i += 2) pairs.push([ranges[i]!, ranges[i + 1]!]);
  pairs.sort((a, b) => a[0] - b[0]);
  const joined: number[] = [];
  for (const [lo, hi] of pairs) {
    if (joined.length > 0 && lo <= joined.at(-1)! + 1) {
      joined[joined.length - 1] = Math.max(joined.at(-1)!, hi);
    } else joined.push(lo, hi);
  }
  return without(joined, [firstSurrogate, lastSurrogate]);
}

/** What of `ranges` is not in `cut`; both sorted. */
export function without(ranges: readonly number[], cut: readonly number[]): number[] {
  const out: number[] = [];
  let c = 0;
  for (let i = 0; i < ranges.length; i += 2) {
    let lo = ranges[i]!;
    const hi = ranges[i + 1]!;
    while (c < cut.length && cut[c + 1]! < lo) c += 2;
    for (let k = c; k < cut.length && cut[k]! <= hi && lo <= hi; k += 2) {
      if (cut[k]! > lo) out.push(lo, cut[k]! - 1);
      lo = Math.max(lo, cut[k + 1]! + 1);
    }
    if (lo <= hi) out.push(lo, hi);
  }
  return out;
}

export function complement(ranges: readonly number[]): number[] {
  return without(allRanges, ranges);
}

export function contains(ranges: readonly number[], point: number): boolean {
  for (let i = 0; i < ranges.length; i += 2) {
    if (point < ranges[i]!) return false;
    if (point <= ranges[i + 1]!) return true;
  }
  return false;
}

export function charSet(ranges: readonly number[], encoding: CharEncoding): CharSet {
  const normal = normalRanges(ranges);
  // where nothing is escaped both encodings are one
  const plain = encoding === "json" && !escapedRanges.some((_, i) => i % 2 === 0 && overlaps(normal, i));
  return { ranges: normal, encoding: plain ? "utf8" : encoding };
}

/** Characters that JSON strings escape: controls, the quote, the backslash. */
const escapedRanges: readonly number[] = [0, 0x1f, 0x22, 0x22, 0x5c, 0x5c];

function overlaps(ranges: readonly number[], pair: number): boolean {
  for (let point = escapedRanges[pair]!; point <= escapedRanges[pair + 1]!; point++) {
    if (contains(ranges, point)) return true;
  }
  return false;
}

/** Bytes of one character as alternatives of byte ranges: each path is [lo, hi, lo, hi, ...]. */
export function bytePaths({ ranges, encoding }: CharSet): number[][] {
  const paths: number[][] = [];
  if (encoding === "utf8") utf8Paths(ranges, paths);
  else {
    utf8Paths(without(ranges, escapedRanges), paths);
    if (encoding === "jsonAny") paths.push(...anyEscapes);
    else for (const point of escapesOf(ranges)) paths.push(literalPath(escapeText(point)));
  }
  return paths;
}

function* escapesOf(ranges: readonly number[]): Generator<number> {
  for (let i = 0; i < escapedRanges.length; i += 2) {
    for (let point = escapedRanges[i]!; point <= escapedRanges[i + 1]!; point++) {
      if (contains(ranges, point)) yield point;
    }
  }
}

function escapeText(point: number): string {
  return JSON.stringify(String.fromCharCode(point)).slice(1, -1);
}

function literalPath(text: string): number[] {
  return [...text].flatMap((c) => [c.charCodeAt(0), c.charCodeAt(0)]);
}

const backslash = 0x5c;
const digit = [0x30, 0x39];
const hexDigits: readonly (readonly number[])[] = [digit, [0x41, 0x46], [0x61, 0x66]];

/** `\n` and its like, and `\uXXXX` except for surrogates, of which only pairs would be characters. */
const anyEscapes: readonly number[][] = [
  ...[...'"\\/bfnrt'].map((c) => [backslash, backslash, c.charCodeAt(0), c.charCodeAt(0)]),
  ...hexPaths(),
];

function hexPaths(): number[][] {
  const head = [backslash, backslash, 0x75, 0x75];
  const isD = (range: readonly number[]): boolean => range[0] === 0x41 || range[0] === 0x61;
  const out: number[][] = [];
  const rest = (path: number[], left: number): void => {
    if (left === 0) {
      out.push(path);
      return;
    }
    for (const range of hexDigits) rest([...path, ...range], left - 1);
  };
  const letter = (range: readonly number[], c: string): number =>
    c.charCodeAt(0) - 0x41 + (range[0] === 0x61 ? 0x61 : 0x41);
  for (const range of hexDigits) {
    if (!isD(range)) {
      rest([...head, ...range], 3);
      continue;
    }
    const d = letter(range, "D");
    rest([...head, range[0]!, d - 1], 3);
    rest([...head, d + 1, range[1]!], 3);
    // D0 to D7 are no surrogates
    rest([...head, d, d, 0x30, 0x37], 2);
  }
  return out;
}

const lengthEnds = [0x7f, 0x7ff, 0xffff, lastCharacter];

function utf8Paths(ranges: readonly number[], out: number[][]): void {
  for (let i = 0; i < ranges.length; i += 2) {
    let lo = ranges[i]!;
    const hi = ranges[i + 1]!;
    for (const end of lengthEnds) {
      if (lo > end || lo > hi) continue;
      const top = Math.min(hi, end);
      splitPath(utf8(lo), utf8(top), 0, [], out);
      lo = top + 1;
    }
  }
}

/** Ranges of byte strings of one length, cut where a later byte does not run over all its values. */
function splitPath(
  lo: readonly number[],
  hi: readonly number[],
  at: number,
  head: number[],
  out: number[][],
): void {
  if (at === lo.length - 1) {
    out.push([...head, lo[at]!, hi[at]!]);
    return;
  }
  if (lo[at] === hi[at]) {
    splitPath(lo, hi, at + 1, [...head, lo[at]!, hi[at]!], out);
    return;
  }
  const tail = lo.length - at - 1;
  const whole = (bytes: readonly number[], value: number): boolean =>
    bytes.slice(at + 1).every((byte) => byte === value);
  let from = lo[at]!;
  let to = hi[at]!;
  if (!whole(lo, 0x80)) {
    splitPath(lo, [...lo.slice(0, at + 1), ...filled(tail, 0xbf)], at + 1, [...head, from, from], out);
    from += 1;
  }
  const cutTop = !whole(hi, 0xbf);
  if (cutTop) to -= 1;
  if (from <= to) out.push([...head, from, to, ...Array.from({ length: tail }, () => [0x80, 0xbf]).flat()]);
  if (cutTop) {
    splitPath([...hi.slice(0, at + 1), ...filled(tail, 0x80)], hi, at + 1, [...head, hi[at]!, hi[at]!], out);
  }
}

function filled(count: number, value: number): number[] {
  return new Array<number>(count).fill(value);
}

function utf8(point: number): number[] {
  if (point <= 0x7f) return [point];
  if (point <= 0x7ff) return [0xc0 | (point >> 6), 0x80 | (point & 0x3f)];
  if (point <= 0xffff) return [0xe0 | (point >> 12), 0x80 | ((point >> 6) & 0x3f), 0x80 | (point & 0x3f)];
  return [
    0xf0 | (point >> 18),
    0x80 | ((point >> 12) & 0x3f),
    0x80 | ((point >> 6) & 0x3f),
    0x80 | (point & 0x3f),
  ];
}
