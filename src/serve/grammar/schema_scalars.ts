import { charSet } from "./chars.ts";
import { chars, type Expr, repeat } from "./expr.ts";
import { formats } from "./formats.ts";
import { integerText, numberText } from "./json_text.ts";
import type { Notation } from "./notation.ts";
import { integerRange, numberRange } from "./number_ranges.ts";
import { shown } from "./refusal.ts";
import { regexExpr } from "./regex.ts";
import { parseRegex } from "./regex_syntax.ts";
import type { Schema } from "./schema_keywords.ts";

/** Where a schema stands, and what is done about what is wrong with it. */
export type SchemaPlace = {
  readonly path: string;
  readonly notation: Notation;
  /** Throws, or notes that a keyword is passed over. */
  readonly unsupported: (keyword: string, fix?: string) => void;
  readonly wrong: (keyword: string, expected: string) => Error;
  /** Throws, or gives what no text matches. */
  readonly nothing: (expected: string, got: string) => Expr;
  /** Whether a pattern that cannot be read is passed over. */
  readonly lenient: boolean;
};

export const counts = ["minItems", "maxItems"] as const;
export const bounds = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"] as const;
const lengths = ["minLength", "maxLength"] as const;

/** These keywords of a schema with their values. */
export function limitsOf(schema: Schema, keywords: readonly string[]): string {
  return keywords
    .filter((keyword) => schema[keyword] !== undefined)
    .map((keyword) => `${keyword} ${String(schema[keyword])}`)
    .join(" and ");
}

/** Whether a multiple of `step` lies within the bounds of a schema. */
export function hasMultiple(step: number, schema: Schema): boolean {
  if (step <= 0) return false;
  const { lo, hi, open } = boundsOf((keyword) => {
    const value = schema[keyword];
    return typeof value === "number" ? value : undefined;
  });
  if (lo === -Infinity || hi === Infinity) return true;
  const first = Math.ceil(lo / step) * step;
  const next = open.lo && first === lo ? first + step : first;
  return open.hi ? next < hi : next <= hi;
}

type Bounds = {
  readonly lo: number;
  readonly hi: number;
  /** A bound that is not among the numbers itself. */
  readonly open: { readonly lo: boolean; readonly hi: boolean };
};

function boundsOf(bound: (keyword: string) => number | undefined): Bounds {
  const [atLeast, above] = [bound("minimum") ?? -Infinity, bound("exclusiveMinimum") ?? -Infinity];
  const [atMost, below] = [bound("maximum") ?? Infinity, bound("exclusiveMaximum") ?? Infinity];
  const lo = Math.max(atLeast, above);
  const hi = Math.min(atMost, below);
  const open = { lo: lo === above && Number.isFinite(lo), hi: hi === below && Number.isFinite(hi) };
  return { lo, hi, open };
}

/** A keyword's whole number from 0. */
export function wholeNumber(schema: Schema, keyword: string, place: SchemaPlace): number | undefined {
  const value = schema[keyword];
  if (value === undefined) return undefined;
  if (typeof value === "number" && Number.isInteger(value) && value >= 0) return value;
  throw place.wrong(keyword, "a whole number from 0");
}

/** The inside of a string: its characters, without what stands around them. */
export function stringExpr(schema: Schema, place: SchemaPlace): Expr {
  const { notation } = place;
  const min = wholeNumber(schema, "minLength", place) ?? 0;
  const max = wholeNumber(schema, "maxLength", place) ?? Infinity;
  const { pattern, format } = schema;
  if (max < min) return place.nothing("lengths that a text can have", limitsOf(schema, lengths));
  if (pattern !== undefined) {
    if (typeof pattern !== "string") throw place.wrong("pattern", "a regular expression");
    if (format !== undefined) place.unsupported("format beside pattern", "Keep the pattern alone");
    return matching(pattern, min, max, place);
  }
  const known = typeof format === "string" ? formats.get(format) : undefined;
  if (format !== undefined && known === undefined) place.unsupported(`format ${shown(String(format))}`);
  if (known === undefined) return repeat(chars(notation.characters), min, max);
  if (min > 0 || max < Infinity) {
    place.unsupported(min > 0 ? "minLength beside format" : "maxLength beside format");
  }
  return regexExpr(known, { what: "schema", path: place.path, encoding: notation.encoding, search: false });
}

function matching(pattern: string, min: number, max: number, place: SchemaPlace): Expr {
  const { encoding, characters } = place.notation;
  const path = `${place.path}/pattern`;
  const bounded = min > 0 || max < Infinity;
  try {
    const counted = bounded ? countedSet(pattern, path) : undefined;
    if (counted) {
      const [least, most] = [Math.max(min, counted.min), Math.min(max, counted.max)];
      if (most >= least) return repeat(chars(charSet(counted.ranges, encoding)), least, most);
      return place.nothing(
        "lengths that the pattern leaves",
        limitsOf({ minLength: min, maxLength: max }, lengths),
      );
    }
    if (bounded) {
      const keyword = min > 0 ? "minLength beside pattern" : "maxLength beside pattern";
      place.unsupported(keyword, "Count in the pattern");
    }
    return regexExpr(pattern, { what: "schema", path, encoding, search: true });
  } catch (error) {
    if (!place.lenient) throw error;
    place.unsupported("pattern");
    return repeat(chars(characters), min, max);
  }
}

/** Numbers within the bounds of a schema. */
export function numberExpr(type: "integer" | "number", schema: Schema, place: SchemaPlace): Expr {
  const bound = (keyword: string): number | undefined => {
    const value = schema[keyword];
    if (value === undefined) return undefined;
    const fits = typeof value === "number" && Math.abs(value) <= Number.MAX_SAFE_INTEGER;
    if (!fits) throw place.wrong(keyword, `a number within ${Number.MAX_SAFE_INTEGER}`);
    return value;
  };
  const { lo, hi, open } = boundsOf(bound);
  const nothing = (): Expr => place.nothing("bounds with a number between them", limitsOf(schema, bounds));
  if (lo === -Infinity && hi === Infinity) return type === "integer" ? integerText : numberText;
  if (type === "integer") {
    const from = open.lo && Number.isInteger(lo) ? lo + 1 : Math.ceil(lo);
    const to = open.hi && Number.isInteger(hi) ? hi - 1 : Math.floor(hi);
    return from > to ? nothing() : integerRange(from, to);
  }
  if (lo > hi || (lo === hi && (open.lo || open.hi))) return nothing();
  for (const [value, keyword] of [
    [lo, open.lo ? "exclusiveMinimum" : "minimum"],
    [hi, open.hi ? "exclusiveMaximum" : "maximum"],
  ] as const) {
    if (!Number.isFinite(value) || Number.isInteger(value)) continue;
    place.unsupported(`${keyword} that is no whole number`, "Use whole bounds");
    return numberText;
  }
  return numberRange(lo, hi, open);
}

/** A pattern that is one set of characters from beginning to end, with its counts. */
function countedSet(
  pattern: string,
  path: string,
): { ranges: readonly number[]; min: number; max: number } | undefined {
  const regex = parseRegex(pattern, "schema", path);
  if (regex.kind !== "seq" || regex.of.length !== 3) return undefined;
  const [start, middle, end] = regex.of;
  if (start?.kind !== "start" || end?.kind !== "end" || middle?.kind !== "repeat" || middle.of.kind !== "set")
    return undefined;
  return { ranges: middle.of.ranges, min: middle.min, max: middle.max };
}

export const checkedOnValues = new Set([
  ...["minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
]);

/** Whether a listed value keeps to the lengths and bounds beside it. */
export function isWithin(value: unknown, schema: Schema): boolean {
  const over = (keyword: string, of: number): boolean => {
    const bound = schema[keyword];
    return typeof bound !== "number" || of >= bound;
  };
  const under = (keyword: string, of: number): boolean => {
    const bound = schema[keyword];
    return typeof bound !== "number" || of <= bound;
  };
  if (typeof value === "string")
    return over("minLength", [...value].length) && under("maxLength", [...value].length);
  if (typeof value !== "number") return true;
  const { exclusiveMinimum: above, exclusiveMaximum: below } = schema;
  return (
    over("minimum", value) &&
    under("maximum", value) &&
    value !== above &&
    value !== below &&
    over("exclusiveMinimum", value) &&
    under("exclusiveMaximum", value)
  );
}
