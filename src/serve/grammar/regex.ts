import { allRanges, type CharEncoding, charSet } from "./chars.ts";
import { chars, type Expr, nothing, repeat, seq } from "./expr.ts";
import { unsupportedKeyword } from "./refusal.ts";
import { parseRegex, type Regex } from "./regex_syntax.ts";

export type RegexOptions = {
  /** For messages: what has the pattern, and where. */
  readonly what: string;
  readonly path?: string;
  readonly encoding: CharEncoding;
  /** The pattern may match any part of the text, as in JSON Schema; otherwise it must match all of it. */
  readonly search: boolean;
};

/** The texts that a pattern matches. */
export function regexExpr(pattern: string, options: RegexOptions): Expr {
  const { what, path = "", encoding, search } = options;
  const regex = parseRegex(pattern, what, path);
  const any = repeat(chars(charSet(allRanges, encoding)), 0, Infinity);
  const misplaced = (): Error =>
    unsupportedKeyword(
      what,
      "an anchor in the middle of a pattern",
      path,
      "Use ^ at the beginning and $ at the end",
    );

  /** `first`, `last`: what stands here is the pattern's beginning, its end. */
  const build = (node: Regex, first: boolean, last: boolean): Expr => {
    switch (node.kind) {
      case "start":
        if (!first) throw misplaced();
        return last && search ? any : nothing;
      case "end":
        if (!last) throw misplaced();
        return first && search ? any : nothing;
      case "choice":
        return { kind: "choice", of: node.of.map((one) => build(one, first, last)) };
      case "seq":
        return sequence(node.of, first, last);
      default:
        return open(first, inner(node), last);
    }
  };

  const sequence = (parts: readonly Regex[], first: boolean, last: boolean): Expr => {
    let from = 0;
    let to = parts.length;
    while (first && from < to && parts[from]!.kind === "start") from += 1;
    while (last && to > from && parts[to - 1]!.kind === "end") to -= 1;
    const begins = first && from === 0;
    const ends = last && to === parts.length;
    const rest = parts.slice(from, to);
    if (rest.length === 0) return open(begins, nothing, ends);
    if (rest.length === 1) return build(rest[0]!, begins, ends);
    return seq(...rest.map((part, i) => build(part, begins && i === 0, ends && i === rest.length - 1)));
  };

  /** Puts what may stand around a part that is searched for. */
  const open = (before: boolean, expr: Expr, after: boolean): Expr => {
    if (!search || (!before && !after)) return expr;
    return seq(...(before ? [any] : []), expr, ...(after ? [any] : []));
  };

  const inner = (node: Regex): Expr => {
    switch (node.kind) {
      case "start":
      case "end":
        throw misplaced();
      case "set":
        return chars(charSet(node.ranges, encoding));
      case "seq":
        return seq(...node.of.map(inner));
      case "choice":
        return { kind: "choice", of: node.of.map(inner) };
      case "repeat":
        return repeat(inner(node.of), node.min, node.max);
    }
  };
  return build(regex, true, true);
}
