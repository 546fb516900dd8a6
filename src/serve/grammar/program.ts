import type { CharEncoding } from "./chars.ts";

/**
 * A compiled grammar, plain data that goes to the engine packed: rules over numbered nodes. A text matches a rule of the
 * first kind when it leads from `start` to `end`.
 */
export type Program = {
  readonly nodes: number;
  /** Five numbers each: from, to, kind, a, b. */
  readonly edges: ArrayLike<number>;
  /** How many rules deep a text must go at least from each node to the end of its rule; `never` where there is no way. */
  readonly needs: Int32Array;
  readonly rules: readonly ProgramRule[];
  /** Number of the rule that all text must match. */
  readonly root: number;
};

export type ProgramRule =
  | { readonly kind: "nodes"; readonly start: number; readonly end: number }
  /** `min` to `max` characters of a set; `max` -1 = without end */
  | {
      readonly kind: "loop";
      readonly ranges: readonly number[];
      readonly encoding: CharEncoding;
      readonly min: number;
      readonly max: number;
    }
  /** One of these texts: their bytes as one character each, sorted, none twice. */
  | { readonly kind: "words"; readonly words: readonly string[] };

/** No way leads from a node to the end of its rule. */
export const never = 2 ** 30;

/** Kinds of edges. */
export const edge = {
  /** Takes nothing. */
  empty: 0,
  /** A byte from a to b. */
  bytes: 1,
  /** A text of rule a. */
  rule: 2,
  /** The control token a. */
  token: 3,
} as const;

export const edgeWords = 5;

/** Rules within rules that an answer may stand in at once, which bounds how deep a recursive grammar nests. */
export const maxDepth = 256;
