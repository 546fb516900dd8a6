import type { CharSet } from "./chars.ts";

/** What every kind of grammar is read into. */
export type Expr =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "chars"; readonly set: CharSet }
  | { readonly kind: "seq"; readonly of: readonly Expr[] }
  | { readonly kind: "choice"; readonly of: readonly Expr[] }
  /** `max` may be Infinity */
  | { readonly kind: "repeat"; readonly of: Expr; readonly min: number; readonly max: number }
  | { readonly kind: "rule"; readonly name: string }
  /** A control token, which no text spells. */
  | { readonly kind: "token"; readonly id: number }
  /** One of many texts. */
  | { readonly kind: "words"; readonly of: readonly string[] }
  /** Items in order, then any number of `more`, with a separator between those that are there. */
  | {
      readonly kind: "list";
      readonly items: readonly { readonly of: Expr; readonly optional: boolean }[];
      readonly more?: Expr;
      readonly separator: Expr;
    };

export type Grammar = { readonly rules: ReadonlyMap<string, Expr>; readonly root: Expr };

export const nothing: Expr = { kind: "seq", of: [] };

export function text(value: string): Expr {
  return { kind: "text", text: value };
}

export function seq(...of: readonly Expr[]): Expr {
  return of.length === 1 ? of[0]! : { kind: "seq", of };
}

export function choice(...of: readonly Expr[]): Expr {
  return of.length === 1 ? of[0]! : { kind: "choice", of };
}

export function repeat(of: Expr, min: number, max: number): Expr {
  return min === 1 && max === 1 ? of : { kind: "repeat", of, min, max };
}

export function optional(of: Expr): Expr {
  return repeat(of, 0, 1);
}

export function rule(name: string): Expr {
  return { kind: "rule", name };
}

export function chars(set: CharSet): Expr {
  return { kind: "chars", set };
}
