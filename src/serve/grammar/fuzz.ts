import { PsionicError } from "../../core/error.ts";
import { compileGrammar } from "./compile.ts";
import { Grammars, type TokenMask } from "./constraint.ts";
import type { Grammar } from "./expr.ts";
import { parseGbnf } from "./gbnf.ts";
import { regexExpr } from "./regex.ts";
import { schemaGrammar } from "./schema.ts";
import { packTokens, type TokenBytes } from "./token_trie.ts";

export type GrammarFuzzCounts = {
  readonly cases: number;
  /** Compiled, and its masks followed for a while. */
  readonly followed: number;
  readonly refused: number;
  readonly tokens: number;
};

/** Longer for one case means that something is not bounded, milliseconds. */
const longest = 15_000;

/**
 * Schemas, patterns and grammars put together from pieces and then damaged. Each is refused with a typed error, or tokens
 * that its masks allow are taken until it ends; throws at anything else.
 */
export function fuzzGrammars(
  tokens: TokenBytes,
  seed: number,
  limit: { readonly count: number } | { readonly durationMs: number },
): GrammarFuzzCounts {
  const random = seeded(seed);
  const grammars = new Grammars(tokens.vocabularySize);
  grammars.learn(packTokens(tokens, new Set()));
  const counts = { cases: 0, followed: 0, refused: 0, tokens: 0 };
  const start = performance.now();
  const done = (): boolean =>
    "count" in limit ? counts.cases >= limit.count : performance.now() - start >= limit.durationMs;
  while (!done()) {
    const [kind, source, read] = randomCase(random);
    const began = performance.now();
    try {
      counts.tokens += follow(grammars, read(), `${seed} ${counts.cases}`, random);
      counts.followed += 1;
    } catch (error) {
      if (!(error instanceof PsionicError) || error.code === "internal") {
        throw new Error(`case ${counts.cases} of seed ${seed}, ${kind} ${source}: ${error}`, {
          cause: error,
        });
      }
      counts.refused += 1;
    }
    if (performance.now() - began > longest) {
      throw new Error(`case ${counts.cases} of seed ${seed} took too long: ${kind} ${source}`);
    }
    counts.cases += 1;
  }
  return counts;
}

function follow(grammars: Grammars, grammar: Grammar, digest: string, random: () => number): number {
  const constraint = grammars.add(digest, compileGrammar(grammar)).open({ digest, consumed: [], stops: [] });
  let taken = 0;
  while (taken < 24 && !constraint.ended) {
    const allowed = tokensOf(constraint.mask());
    constraint.accept(allowed[Math.floor(random() * allowed.length)]!);
    taken += 1;
  }
  return taken;
}

function tokensOf({ words }: TokenMask): number[] {
  const ids: number[] = [];
  for (let w = 0; w < words.length; w++) {
    for (let rest = words[w]!; rest !== 0; rest &= rest - 1) ids.push(w * 32 + 31 - Math.clz32(rest & -rest));
  }
  return ids;
}

type Case = readonly [kind: string, source: string, read: () => Grammar];

function randomCase(random: () => number): Case {
  const roll = random();
  if (roll < 0.5) {
    const source = damaged(JSON.stringify(randomSchema(random, 0)), random);
    let schema: unknown = source;
    try {
      schema = JSON.parse(source);
    } catch {
      // what is no JSON any more is a text, which is no schema
    }
    return ["schema", source, () => schemaGrammar(schema, { lenient: random() < 0.5 })];
  }
  if (roll < 0.75) {
    const source = damaged(pieces(random, patternPieces, 12), random);
    const search = random() < 0.5;
    const encoding = search ? "json" : "utf8";
    return [
      "pattern",
      source,
      () => ({ rules: new Map(), root: regexExpr(source, { what: "pattern", encoding, search }) }),
    ];
  }
  const names = ["root", "a", "b", "c"];
  const source = names.map((name) => `${name} ::= ${pieces(random, gbnfPieces, 8)}`).join("\n");
  const broken = damaged(source, random);
  return ["grammar", broken, () => parseGbnf(broken)];
}

const patternPieces = [
  ..."abc.^$|()[]{}*+?\\-,09é日😀",
  ...[
    "\\d",
    "\\w",
    "\\S",
    "[a-z]",
    "[^x]",
    "(a|b)",
    "{2,4}",
    "{0,9}",
    "(?:",
    "\\u0041",
    "\\p{L}",
    "(x*)*",
    "^",
    "$",
  ],
];
const gbnfPieces = [
  ...[
    '"x" ',
    "[a-z] ",
    "[^0-9] ",
    "a ",
    "b ",
    "c ",
    "root ",
    "| ",
    "( ",
    ") ",
    "* ",
    "+ ",
    "? ",
    "{2,3} ",
    ". ",
    '"é\\n" ',
  ],
];
const schemaWords = [
  ...[
    "type",
    "properties",
    "required",
    "items",
    "anyOf",
    "oneOf",
    "allOf",
    "enum",
    "const",
    "$ref",
    "$defs",
    "pattern",
  ],
  ...[
    "format",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "additionalProperties",
    "not",
  ],
  ...["prefixItems", "exclusiveMinimum", "multipleOf", "description", "__proto__", "constructor"],
];
const schemaValues: readonly unknown[] = [
  ...[
    "string",
    "integer",
    "number",
    "object",
    "array",
    "null",
    "boolean",
    "date",
    "uuid",
    "^a+$",
    "#",
    "#/$defs/a",
    "a",
  ],
  ...[
    0,
    1,
    3,
    -5,
    2.5,
    1e9,
    1e300,
    true,
    false,
    null,
    ["a"],
    ["string", "null"],
    [1, "x", null],
    {},
    [],
    [{}],
  ],
];

function randomSchema(random: () => number, depth: number): unknown {
  if (depth > 4 || random() < 0.1) return pick(random, schemaValues);
  const entries = Array.from({ length: Math.floor(random() * 5) }, (): [string, unknown] => {
    const word = pick(random, schemaWords);
    if (word === "type") return [word, pick(random, schemaValues.slice(0, 7))];
    if (word === "properties" || word === "$defs") {
      return [word, { a: randomSchema(random, depth + 1), b: randomSchema(random, depth + 1) }];
    }
    if (word.endsWith("Of") || word === "prefixItems") {
      return [word, [randomSchema(random, depth + 1), randomSchema(random, depth + 1)]];
    }
    const nested = ["items", "additionalProperties", "not"].includes(word);
    return [word, nested ? randomSchema(random, depth + 1) : pick(random, schemaValues)];
  });
  return Object.fromEntries(entries);
}

/** Most stay as they are; others lose, repeat or swap a piece. */
function damaged(source: string, random: () => number): string {
  if (random() < 0.6) return source;
  const at = Math.floor(random() * source.length);
  const length = 1 + Math.floor(random() * 6);
  const piece = source.slice(at, at + length);
  const roll = random();
  if (roll < 0.4) return source.slice(0, at) + source.slice(at + length);
  if (roll < 0.7) return source.slice(0, at) + piece.repeat(1 + Math.floor(random() * 40)) + source.slice(at);
  return source.slice(0, at) + String.fromCharCode(Math.floor(random() * 0x3000)) + source.slice(at);
}

function pieces(random: () => number, from: readonly string[], most: number): string {
  return Array.from({ length: 1 + Math.floor(random() * most) }, () => pick(random, from)).join("");
}

function pick<T>(random: () => number, from: readonly T[]): T {
  return from[Math.floor(random() * from.length)]!;
}

/** Numbers in [0, 1), the same for the same seed. */
function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
