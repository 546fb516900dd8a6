import { allRanges, charSet, complement, normalRanges } from "./chars.ts";
import { chars, choice, type Expr, type Grammar, repeat, rule, seq, text } from "./expr.ts";
import { refused, shown } from "./refusal.ts";

const maxNesting = 100;
const maxLength = 2 ** 20;
const maxCount = 10_000;

/** Reads llama.cpp's grammar notation; the text must match the rule `root`. Throws `unsupported` with the place. */
export function parseGbnf(source: string): Grammar {
  if (source.length > maxLength)
    throw refused("grammar", `at most ${maxLength} characters`, `${source.length}`);
  return new Reader(source).read();
}

class Reader {
  private readonly source: string;
  private at = 0;
  private depth = 0;
  private readonly rules = new Map<string, Expr>();
  private readonly used = new Map<string, number>();

  constructor(source: string) {
    this.source = source;
  }

  read(): Grammar {
    this.skip(true);
    while (this.at < this.source.length) {
      const name = this.name();
      if (name === undefined) throw this.wrong("the name of a rule");
      this.skip(false);
      if (!this.take("::=")) throw this.wrong("::= behind a rule's name");
      this.skip(true);
      if (this.rules.has(name)) throw this.wrong(`one rule called ${shown(name)}`, "a second one");
      this.rules.set(name, this.alternatives(false));
      this.skip(true);
    }
    if (!this.rules.has("root")) {
      throw refused("grammar", "a rule called root", this.rules.size === 0 ? "no rule" : "none");
    }
    for (const [name, place] of this.used) {
      if (this.rules.has(name)) continue;
      this.at = place;
      throw this.wrong("rules that are all defined", `none called ${shown(name)}`);
    }
    return { rules: this.rules, root: rule("root") };
  }

  private wrong(expected: string, got = "something else"): Error {
    const line = this.source.slice(0, this.at).split("\n").length;
    return refused("grammar", expected, `${got} on line ${line}`);
  }

  private peek(): string {
    return this.source[this.at] ?? "";
  }

  private take(expected: string): boolean {
    if (!this.source.startsWith(expected, this.at)) return false;
    this.at += expected.length;
    return true;
  }

  /** Blanks and comments; line ends too where they separate nothing. */
  private skip(lines: boolean): void {
    for (;;) {
      const c = this.peek();
      if (c === "#") {
        const end = this.source.indexOf("\n", this.at);
        this.at = end < 0 ? this.source.length : end;
      } else if (c === " " || c === "\t" || (lines && (c === "\n" || c === "\r"))) this.at += 1;
      else return;
    }
  }

  private name(): string | undefined {
    const pattern = /[A-Za-z0-9_-]+/y;
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.source);
    if (!match) return undefined;
    this.at += match[0].length;
    return match[0];
  }

  private alternatives(nested: boolean): Expr {
    if (++this.depth > maxNesting)
      throw this.wrong(`groups nested at most ${maxNesting} deep`, "a deeper one");
    const of = [this.sequence(nested)];
    while (this.another()) {
      this.skip(true);
      of.push(this.sequence(nested));
    }
    this.depth -= 1;
    return choice(...of);
  }

  /** A | that goes on with alternatives, on this line or at the beginning of the next. */
  private another(): boolean {
    const place = this.at;
    this.skip(true);
    if (this.take("|")) return true;
    this.at = place;
    return false;
  }

  private sequence(nested: boolean): Expr {
    const of: Expr[] = [];
    for (;;) {
      let item = this.item();
      if (item === undefined) return seq(...of);
      for (let counts = this.counts(); counts; counts = this.counts())
        item = repeat(item, counts[0], counts[1]);
      of.push(item);
      this.skip(nested);
    }
  }

  private item(): Expr | undefined {
    if (this.take('"')) return this.literal();
    if (this.take("[")) return this.set();
    if (this.take(".")) return chars(charSet(allRanges, "utf8"));
    if (this.take("(")) {
      this.skip(true);
      const inner = this.alternatives(true);
      this.skip(true);
      if (!this.take(")")) throw this.wrong("a ) that closes a group");
      return inner;
    }
    const place = this.at;
    const name = this.name();
    if (name === undefined) {
      if (/^[|)\n\r]?$/.test(this.peek())) return undefined;
      throw this.wrong("a text, a set, a group or the name of a rule");
    }
    if (!this.used.has(name)) this.used.set(name, place);
    return rule(name);
  }

  private counts(): readonly [number, number] | undefined {
    if (this.take("*")) return [0, Infinity];
    if (this.take("+")) return [1, Infinity];
    if (this.take("?")) return [0, 1];
    if (this.peek() !== "{") return undefined;
    const match = /^\{\s*(\d{0,9})\s*(,\s*(\d{0,9})\s*)?\}/.exec(this.source.slice(this.at, this.at + 64));
    if (!match || (match[1] === "" && !match[3])) throw this.wrong("counts such as {2,5}");
    this.at += match[0].length;
    const min = Number(match[1]);
    const max = match[2] === undefined ? min : match[3] === "" ? Infinity : Number(match[3]);
    if (max < min) throw this.wrong("counts in order", `{${min},${max}}`);
    if (min > maxCount || (max !== Infinity && max > maxCount)) {
      throw this.wrong(`counts of at most ${maxCount}`, "a larger one");
    }
    return [min, max];
  }

  private literal(): Expr {
    let value = "";
    while (!this.take('"')) {
      if (this.at >= this.source.length || this.peek() === "\n")
        throw this.wrong('a " that closes a text', "its line's end");
      value += String.fromCodePoint(this.character());
    }
    return text(value);
  }

  private set(): Expr {
    const negative = this.take("^");
    const ranges: number[] = [];
    while (!this.take("]")) {
      if (this.at >= this.source.length || this.peek() === "\n")
        throw this.wrong("a ] that closes a set", "its line's end");
      const low = this.character();
      let high = low;
      if (this.peek() === "-" && this.source[this.at + 1] !== "]") {
        this.at += 1;
        high = this.character();
      }
      if (high < low) throw this.wrong("a range in order", "one backwards");
      ranges.push(low, high);
    }
    const normal = normalRanges(ranges);
    return chars(charSet(negative ? complement(normal) : normal, "utf8"));
  }

  private character(): number {
    const point = this.source.codePointAt(this.at)!;
    this.at += point > 0xffff ? 2 : 1;
    if (point !== 0x5c) return point;
    const c = this.source[this.at++] ?? "";
    const simple = {
      n: 10,
      r: 13,
      t: 9,
      "\\": 0x5c,
      '"': 0x22,
      "'": 0x27,
      "]": 0x5d,
      "[": 0x5b,
      "-": 0x2d,
      "^": 0x5e,
    }[c];
    if (simple !== undefined) return simple;
    const count = { x: 2, u: 4, U: 8 }[c];
    const hex = count === undefined ? "" : this.source.slice(this.at, this.at + count);
    const value = Number.parseInt(hex, 16);
    if (count === undefined || hex.length !== count || !/^[0-9a-fA-F]+$/.test(hex) || value > 0x10ffff) {
      throw this.wrong("an escape that is known");
    }
    this.at += count;
    return value;
  }
}
