import { charSet } from "./chars.ts";
import { chars, choice, type Expr, optional, repeat, seq, text } from "./expr.ts";
import { digitSet } from "./json_text.ts";

/** Where a bound is left open: fifteen digits, which every double keeps. */
const largest = 10 ** 15 - 1;

/** Whole numbers from `lo` to `hi` (safe integers or infinite), as JSON writes them. */
export function integerRange(lo: number, hi: number): Expr {
  const top = hi === Infinity ? Math.max(largest, Math.min(lo, Number.MAX_SAFE_INTEGER)) : hi;
  const bottom = lo === -Infinity ? Math.min(-largest, Math.max(hi, Number.MIN_SAFE_INTEGER)) : lo;
  const of: Expr[] = [];
  if (bottom < 0 && bottom <= top) of.push(seq(text("-"), unsigned(Math.max(1, -top), -bottom)));
  if (top >= 0 && bottom <= top) of.push(unsigned(Math.max(0, bottom), top));
  return { kind: "choice", of };
}

/** Numbers from `lo` to `hi`, whole bounds of which each may be excluded. */
export function numberRange(
  lo: number,
  hi: number,
  open: { readonly lo: boolean; readonly hi: boolean },
): Expr {
  const of: Expr[] = [];
  const zeros = optional(seq(text("."), repeat(chars(charSet([0x30, 0x30], "utf8")), 1, 15)));
  of.push(seq(integerRange(open.lo ? lo + 1 : lo, open.hi ? hi - 1 : hi), zeros));
  // strictly between two whole numbers
  if (hi > 0) {
    const from = Math.max(0, lo);
    const to = hi === Infinity ? hi : hi - 1;
    if (from <= to) of.push(seq(unsignedTo(from, to), between));
  }
  if (lo < 0) {
    const from = Math.max(0, -hi);
    const to = lo === -Infinity ? Infinity : -lo - 1;
    if (from <= to) of.push(seq(text("-"), unsignedTo(from, to), between));
  }
  return { kind: "choice", of };
}

/** A fraction with a digit that is not zero. */
const between: Expr = seq(
  text("."),
  repeat(chars(charSet([0x30, 0x30], "utf8")), 0, 8),
  chars(charSet([0x31, 0x39], "utf8")),
  repeat(chars(digitSet), 0, 6),
);

function unsignedTo(from: number, to: number): Expr {
  return unsigned(from, to === Infinity ? Math.max(largest, from) : to);
}

function unsigned(from: number, to: number): Expr {
  const low = String(from);
  const high = String(to);
  const of: Expr[] = [];
  for (let length = low.length; length <= high.length; length++) {
    const first = length === low.length ? low : `1${"0".repeat(length - 1)}`;
    const last = length === high.length ? high : "9".repeat(length);
    of.push(sameLength(first, last));
  }
  return choice(...of);
}

function sameLength(low: string, high: string): Expr {
  if (low === "") return text("");
  const rest = low.length - 1;
  if (/^0*$/.test(low) && /^9*$/.test(high)) return repeat(chars(digitSet), low.length, low.length);
  const [first, last] = [low.charCodeAt(0), high.charCodeAt(0)];
  if (first === last) return seq(text(low[0]!), sameLength(low.slice(1), high.slice(1)));
  const of: Expr[] = [seq(text(low[0]!), sameLength(low.slice(1), "9".repeat(rest)))];
  if (first + 1 < last) {
    const middle = chars(charSet([first + 1, last - 1], "utf8"));
    of.push(seq(middle, repeat(chars(digitSet), rest, rest)));
  }
  of.push(seq(text(high[0]!), sameLength("0".repeat(rest), high.slice(1))));
  return choice(...of);
}
