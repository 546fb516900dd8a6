import { allRanges, charSet, without } from "./chars.ts";
import { chars, choice, type Expr, optional, repeat, rule, seq, text } from "./expr.ts";

/**
 * How JSON is written: on one line, at most one blank behind a colon or a comma. So white space never goes on without end, and
 * numbers have as many digits as a double keeps.
 */

export const comma: Expr = seq(text(","), optional(text(" ")));
export const colon: Expr = seq(text(":"), optional(text(" ")));

/** Any character of a JSON string. */
export const characters = charSet(allRanges, "jsonAny");
/** Characters that stand in JSON strings as they are. */
export const plainRanges: readonly number[] = without(allRanges, [0, 0x1f, 0x22, 0x22, 0x5c, 0x5c]);

export function quoted(inner: Expr): Expr {
  return seq(text('"'), inner, text('"'));
}

export function stringOf(min: number, max: number): Expr {
  return quoted(repeat(chars(characters), min, max));
}

export const digitSet = charSet([0x30, 0x39], "utf8");
const digit = chars(digitSet);
const oneToNine = chars(charSet([0x31, 0x39], "utf8"));
const sign = optional(text("-"));
const whole = choice(text("0"), seq(oneToNine, repeat(digit, 0, 14)));
export const fraction: Expr = seq(text("."), repeat(digit, 1, 15));
const exponent = seq(
  chars(charSet([0x45, 0x45, 0x65, 0x65], "utf8")),
  optional(chars(charSet([0x2b, 0x2b, 0x2d, 0x2d], "utf8"))),
  repeat(digit, 1, 2),
);

export const integerText: Expr = choice(text("0"), seq(sign, oneToNine, repeat(digit, 0, 14)));
export const numberText: Expr = seq(sign, whole, optional(fraction), optional(exponent));

const anyValue = "json value";
const anyObject = "json object";
const anyArray = "json array";

/** Any JSON value, by the rules of `jsonRules`. */
export const valueRule = rule(anyValue);
export const objectRule = rule(anyObject);
export const arrayRule = rule(anyArray);

export const jsonRules: ReadonlyMap<string, Expr> = new Map<string, Expr>([
  [
    anyValue,
    choice(
      objectRule,
      arrayRule,
      stringOf(0, Infinity),
      numberText,
      text("true"),
      text("false"),
      text("null"),
    ),
  ],
  [
    anyObject,
    seq(
      text("{"),
      { kind: "list", items: [], more: seq(stringOf(0, Infinity), colon, valueRule), separator: comma },
      text("}"),
    ),
  ],
  [anyArray, seq(text("["), { kind: "list", items: [], more: valueRule, separator: comma }, text("]"))],
]);

/** A value written as JSON in the one usual way. */
export function literal(value: unknown): string {
  return JSON.stringify(value);
}

/** Names of properties other than the ones given, written without escapes. */
export function otherName(names: readonly string[]): Expr {
  return quoted(
    otherText(
      names.filter((name) => literal(name) === `"${name}"`),
      plainRanges,
    ),
  );
}

/** Texts of these characters other than the ones given. */
export function otherText(names: readonly string[], ranges: readonly number[]): Expr {
  const rest = repeat(chars(charSet(ranges, "utf8")), 0, Infinity);
  if (names.length === 0) return rest;
  // what the names have in common is walked letter by letter; every way out of it is another name
  const from = (group: readonly (readonly number[])[], at: number): Expr => {
    const nexts = new Map<number, (readonly number[])[]>();
    let ends = false;
    for (const name of group) {
      const point = name[at];
      if (point === undefined) ends = true;
      else if (nexts.has(point)) nexts.get(point)!.push(name);
      else nexts.set(point, [name]);
    }
    const taken = [...nexts.keys()].sort((a, b) => a - b).flatMap((point) => [point, point]);
    const out = seq(chars(charSet(without(ranges, taken), "utf8")), rest);
    const deeper = [...nexts].map(([point, inner]) =>
      seq(text(String.fromCodePoint(point)), from(inner, at + 1)),
    );
    return choice(...(ends ? [] : [text("")]), out, ...deeper);
  };
  return from(
    names.map((name) => [...name].map((c) => c.codePointAt(0)!)),
    0,
  );
}
