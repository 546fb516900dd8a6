import { complement, lastCharacter, normalRanges } from "./chars.ts";
import { refused, shown, unsupportedKeyword } from "./refusal.ts";

/** A regular expression as it is read: the part of ECMAScript's syntax that says something about whole texts. */
export type Regex =
  | { readonly kind: "set"; readonly ranges: readonly number[] }
  | { readonly kind: "seq"; readonly of: readonly Regex[] }
  | { readonly kind: "choice"; readonly of: readonly Regex[] }
  | { readonly kind: "repeat"; readonly of: Regex; readonly min: number; readonly max: number }
  | { readonly kind: "start" | "end" };

/** Longer patterns are refused, UTF-16 units. */
export const maxPattern = 20_000;
const maxNesting = 100;
const maxCount = 10_000;
/** Unicode properties, each of which takes some time to look up. */
const mostInPattern = 8;

/** Reads a pattern; throws `unsupported` that names what is not served, or what is wrong. */
export function parseRegex(pattern: string, what: string, path = ""): Regex {
  if (pattern.length > maxPattern) {
    throw refused(what, `at most ${maxPattern} characters`, `${pattern.length}`, {
      keyword: "pattern",
      path,
    });
  }
  return new Reader([...pattern], what, path).read();
}

const lineEnds = [0x0a, 0x0a, 0x0d, 0x0d, 0x2028, 0x2029];
const digits = [0x30, 0x39];
const word = [0x30, 0x39, 0x41, 0x5a, 0x5f, 0x5f, 0x61, 0x7a];
const space = [
  ...[0x09, 0x0d, 0x20, 0x20, 0xa0, 0xa0, 0x1680, 0x1680, 0x2000, 0x200a, 0x2028, 0x2029],
  ...[0x202f, 0x202f, 0x205f, 0x205f, 0x3000, 0x3000, 0xfeff, 0xfeff],
];
const classes: Readonly<Record<string, readonly number[]>> = {
  d: digits,
  D: complement(digits),
  w: word,
  W: complement(word),
  s: space,
  S: complement(space),
};
const controls: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, f: 12, v: 11, "0": 0 };

class Reader {
  private readonly text: readonly string[];
  private readonly what: string;
  private readonly path: string;
  private at = 0;
  private depth = 0;
  private readonly properties = new Set<string>();

  constructor(text: readonly string[], what: string, path: string) {
    this.text = text;
    this.what = what;
    this.path = path;
  }

  read(): Regex {
    const regex = this.alternatives();
    if (this.at < this.text.length) throw this.wrong("a ) that closes a group", "one that closes none");
    return regex;
  }

  private wrong(expected: string, got: string): Error {
    return refused(this.what, expected, `${got} at character ${this.at}`, {
      keyword: "pattern",
      path: this.path,
    });
  }

  private unsupported(keyword: string): Error {
    return unsupportedKeyword(this.what, keyword, this.path, "Write the pattern without it");
  }

  private peek(): string | undefined {
    return this.text[this.at];
  }

  private take(expected: string): boolean {
    if (this.text[this.at] !== expected) return false;
    this.at += 1;
    return true;
  }

  private ahead(start: string): boolean {
    return [...start].every((c, i) => this.text[this.at + i] === c);
  }

  private alternatives(): Regex {
    if (++this.depth > maxNesting)
      throw this.wrong(`groups nested at most ${maxNesting} deep`, "a deeper one");
    const of = [this.sequence()];
    while (this.take("|")) of.push(this.sequence());
    this.depth -= 1;
    return of.length === 1 ? of[0]! : { kind: "choice", of };
  }

  private sequence(): Regex {
    const of: Regex[] = [];
    for (let c = this.peek(); c !== undefined && c !== "|" && c !== ")"; c = this.peek())
      of.push(this.repeated());
    return of.length === 1 ? of[0]! : { kind: "seq", of };
  }

  private repeated(): Regex {
    let of = this.atom();
    for (;;) {
      const counts = this.counts();
      if (!counts) return of;
      if (of.kind === "start" || of.kind === "end") throw this.wrong("something to repeat", "an anchor");
      // a lazy one matches the same texts
      this.take("?");
      of = { kind: "repeat", of, min: counts[0], max: counts[1] };
      if (this.counts()) throw this.wrong("one count", "a second one");
    }
  }

  private counts(): readonly [number, number] | undefined {
    if (this.take("*")) return [0, Infinity];
    if (this.take("+")) return [1, Infinity];
    if (this.take("?")) return [0, 1];
    if (this.peek() !== "{") return undefined;
    const match = /^\{(\d{1,9})(,(\d{0,9}))?\}/.exec(this.text.slice(this.at, this.at + 24).join(""));
    if (!match) return undefined;
    this.at += match[0].length;
    const min = Number(match[1]);
    const max = match[2] === undefined ? min : match[3] === "" ? Infinity : Number(match[3]);
    if (max < min) throw this.wrong("counts in order", `{${min},${max}}`);
    if (min > maxCount || (max !== Infinity && max > maxCount)) {
      throw this.wrong(`counts of at most ${maxCount}`, `{${min},${max}}`);
    }
    return [min, max];
  }

  private atom(): Regex {
    const c = this.text[this.at++]!;
    switch (c) {
      case "(":
        return this.group();
      case "[":
        return { kind: "set", ranges: this.set() };
      case ".":
        return { kind: "set", ranges: complement(lineEnds) };
      case "^":
        return { kind: "start" };
      case "$":
        return { kind: "end" };
      case "\\":
        return { kind: "set", ranges: this.escape(false) };
      case "*":
      case "+":
      case "?":
        this.at -= 1;
        throw this.wrong("something to repeat", c);
      default: {
        const point = c.codePointAt(0)!;
        return { kind: "set", ranges: [point, point] };
      }
    }
  }

  private group(): Regex {
    if (this.ahead("?=") || this.ahead("?!") || this.ahead("?<=") || this.ahead("?<!")) {
      throw this.unsupported(`look-around (${this.text.slice(this.at - 1, this.at + 2).join("")}`);
    }
    if (this.ahead("?<")) {
      const end = this.text.indexOf(">", this.at);
      if (end < 0) throw this.wrong("a > behind a group's name", "none");
      this.at = end + 1;
    } else if (this.ahead("?:")) this.at += 2;
    else if (this.peek() === "?") throw this.unsupported("group flags (?");
    const inner = this.alternatives();
    if (!this.take(")")) throw this.wrong("a ) that closes a group", "the end");
    return inner;
  }

  private set(): number[] {
    const negative = this.take("^");
    const ranges: number[] = [];
    while (!this.take("]")) {
      if (this.at >= this.text.length) throw this.wrong("a ] that closes a set", "the end");
      const low = this.member();
      if (low.length !== 2 || low[0] !== low[1] || this.peek() !== "-" || this.text[this.at + 1] === "]") {
        ranges.push(...low);
        continue;
      }
      this.at += 1;
      const high = this.member();
      if (high.length !== 2 || high[0] !== high[1]) {
        ranges.push(...low, 0x2d, 0x2d, ...high);
        continue;
      }
      if (high[0]! < low[0]!) throw this.wrong("a range in order", "one backwards");
      ranges.push(low[0]!, high[0]!);
    }
    const normal = normalRanges(ranges);
    return negative ? complement(normal) : normal;
  }

  private member(): readonly number[] {
    const c = this.text[this.at++];
    if (c === undefined) throw this.wrong("a ] that closes a set", "the end");
    if (c === "\\") return this.escape(true);
    const point = c.codePointAt(0)!;
    return [point, point];
  }

  private escape(inSet: boolean): readonly number[] {
    const c = this.text[this.at++];
    if (c === undefined) throw this.wrong("a character behind \\", "the end");
    const known = classes[c];
    if (known) return known;
    if (c === "b" && inSet) return [8, 8];
    if (c === "b" || c === "B") throw this.unsupported(`word boundary \\${c}`);
    if (c === "k" || (c >= "1" && c <= "9")) throw this.unsupported(`backreference \\${c}`);
    if (c === "p" || c === "P") return this.property(c === "P");
    const control = controls[c];
    if (control !== undefined) return [control, control];
    if (c === "x") return this.hex(2);
    if (c === "u") return this.take("{") ? this.bracedHex() : this.hex(4);
    if (c === "c") throw this.unsupported("\\c");
    if (/[A-Za-z]/.test(c)) throw this.unsupported(`\\${c}`);
    const point = c.codePointAt(0)!;
    return [point, point];
  }

  private hex(count: number): readonly number[] {
    const text = this.text.slice(this.at, this.at + count).join("");
    if (text.length !== count || !/^[0-9a-fA-F]+$/.test(text))
      throw this.wrong(`${count} hexadecimal digits`, "others");
    this.at += count;
    let point = Number.parseInt(text, 16);
    // two halves of one character
    if (count === 4 && point >= 0xd800 && point < 0xdc00 && this.ahead("\\u")) {
      const low = Number.parseInt(this.text.slice(this.at + 2, this.at + 6).join(""), 16);
      if (low >= 0xdc00 && low <= 0xdfff) {
        this.at += 6;
        point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
      }
    }
    return [point, point];
  }

  private bracedHex(): readonly number[] {
    const end = this.text.indexOf("}", this.at);
    const text = end < 0 ? "" : this.text.slice(this.at, end).join("");
    const point = Number.parseInt(text, 16);
    if (!/^[0-9a-fA-F]{1,6}$/.test(text) || point > lastCharacter)
      throw this.wrong("a code point in braces", "none");
    this.at = end + 1;
    return [point, point];
  }

  private property(negative: boolean): readonly number[] {
    const end = this.take("{") ? this.text.indexOf("}", this.at) : -1;
    const name = end < 0 ? "" : this.text.slice(this.at, end).join("");
    this.properties.add(name);
    if (this.properties.size > mostInPattern) {
      throw this.wrong(`at most ${mostInPattern} different properties`, "more");
    }
    const ranges = /^[\w=]{1,40}$/.test(name) ? unicodeProperty(name) : undefined;
    if (!ranges) throw this.unsupported(`\\p{${shown(name)}}`);
    this.at = end + 1;
    return negative ? complement(ranges) : ranges;
  }
}

const properties = new Map<string, readonly number[] | undefined>();
/** A client cannot make this grow beyond what a few scripts and categories take. */
const mostProperties = 64;

/** The characters with a Unicode property, as the runtime knows it. */
function unicodeProperty(name: string): readonly number[] | undefined {
  if (properties.has(name)) return properties.get(name);
  let runs: RegExp;
  try {
    runs = new RegExp(`\\p{${name}}+`, "gu");
  } catch {
    // no property of this name
    return undefined;
  }
  const ranges: number[] = [];
  for (let first = 0; first <= lastCharacter; first += stretch) {
    if (first === surrogates) continue;
    const units = first > 0xffff ? 2 : 1;
    for (const { index, 0: run } of textOfStretch(first).matchAll(runs)) {
      const from = first + index / units;
      ranges.push(from, from + run.length / units - 1);
    }
  }
  if (properties.size >= mostProperties) properties.clear();
  const joined = normalRanges(ranges);
  properties.set(name, joined);
  return joined;
}

/** Characters that are looked at together; surrogates are one such stretch. */
const stretch = 0x800;
const surrogates = 0xd800;

function textOfStretch(first: number): string {
  return String.fromCodePoint(...Array.from({ length: stretch }, (_, i) => first + i));
}
