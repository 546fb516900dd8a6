import { allRanges, type CharEncoding, type CharSet, charSet, without } from "./chars.ts";
import { chars, choice, type Expr, repeat, rule, seq, text } from "./expr.ts";
import * as json from "./json_text.ts";

/** How values are written: JSON, or the way a model's format writes the arguments of a call. */
export type Notation = {
  /** Any value and any object, by these rules. */
  readonly value: Expr;
  readonly object: Expr;
  readonly rules: ReadonlyMap<string, Expr>;
  /** Any character of a string, and how characters of a pattern are written. */
  readonly characters: CharSet;
  readonly encoding: CharEncoding;
  /** A string around its characters. */
  readonly string: (inner: Expr) => Expr;
  /** One of these values. */
  readonly values: (values: readonly unknown[]) => Expr;
  readonly name: (name: string) => Expr;
  /** A name that is none of these. */
  readonly otherName: (names: readonly string[]) => Expr;
  readonly colon: Expr;
  readonly comma: Expr;
};

export const jsonNotation: Notation = {
  value: json.valueRule,
  object: json.objectRule,
  rules: json.jsonRules,
  characters: json.characters,
  encoding: "json",
  string: json.quoted,
  values: (values) => ({ kind: "words", of: values.map(json.literal) }),
  name: (name) => text(json.literal(name)),
  otherName: json.otherName,
  colon: json.colon,
  comma: json.comma,
};

/** Gemma 4's: names bare, strings as they are between two tokens, no blanks. */
export function gemmaNotation(quote: number): Notation {
  const mark: Expr = { kind: "token", id: quote };
  const characters = charSet(allRanges, "utf8");
  const string = (inner: Expr): Expr => seq(mark, inner, mark);
  const [comma, colon] = [text(","), text(":")];
  const bare = charSet(without(allRanges, bareEnds), "utf8");
  const bareName = repeat(chars(bare), 1, 64);
  const [value, object, array] = [rule("gemma value"), rule("gemma object"), rule("gemma array")];
  const list = (more: Expr): Expr => ({ kind: "list", items: [], more, separator: comma });
  const write = (one: unknown): Expr => {
    if (typeof one === "string") return string(text(one));
    if (Array.isArray(one)) return seq(text("["), ...joined(one.map(write)), text("]"));
    if (typeof one !== "object" || one === null) return text(json.literal(one));
    const members = Object.entries(one).map(([name, inner]) => seq(text(`${name}:`), write(inner)));
    return seq(text("{"), ...joined(members), text("}"));
  };
  const joined = (parts: readonly Expr[]): Expr[] =>
    parts.flatMap((part, i) => (i === 0 ? [part] : [comma, part]));
  return {
    ...{ value, object, characters, encoding: "utf8", string, colon, comma },
    rules: new Map<string, Expr>([
      [
        "gemma value",
        choice(
          object,
          array,
          string(repeat(chars(characters), 0, Infinity)),
          json.numberText,
          ...["true", "false", "null"].map(text),
        ),
      ],
      ["gemma object", seq(text("{"), list(seq(bareName, colon, value)), text("}"))],
      ["gemma array", seq(text("["), list(value), text("]"))],
    ]),
    values: (values) => {
      const texts = values.filter((one) => typeof one === "string");
      const others = values.filter((one) => typeof one !== "string").map(write);
      const words: Expr[] = texts.length > 0 ? [string({ kind: "words", of: texts })] : [];
      return choice(...words, ...others);
    },
    name: text,
    otherName: (names) => json.otherText(["", ...names], bare.ranges),
  };
}

/** What no bare name holds: white space, punctuation of the notation, quotes and marks. */
const bareEnds = [
  0x00, 0x22, 0x27, 0x27, 0x2c, 0x2c, 0x3a, 0x3a, 0x3c, 0x3c, 0x3e, 0x3e, 0x5b, 0x5d, 0x7b, 0x7d,
];
