/** Patterns, choices and GBNF: random answers, matched again by the runtime's own regular expressions. */
import { beforeAll, describe, expect, test } from "bun:test";
import { allRanges, bytePaths, charSet, complement, contains, normalRanges } from "./chars.ts";
import { compileGrammar } from "./compile.ts";
import type { Grammar } from "./expr.ts";
import { parseGbnf } from "./gbnf.ts";
import { regexExpr } from "./regex.ts";
import { defaultVocabulary, openWalk, seeded, type Vocabulary } from "./testing/walk.ts";

let vocabulary: Vocabulary;
beforeAll(() => {
  vocabulary = defaultVocabulary();
});

function texts(grammar: Grammar, count: number, patience = 6): string[] {
  const walk = openWalk(vocabulary, grammar);
  const random = seeded(11);
  const answers = Array.from({ length: count }, () => walk(random, { patience, most: 40 }));
  return answers.filter(({ whole }) => whole).map(({ text }) => text);
}

function pattern(source: string, search = false): Grammar {
  return { rules: new Map(), root: regexExpr(source, { what: "pattern", encoding: "utf8", search }) };
}

const patterns = [
  ...[
    "a",
    "",
    "abc|de?f",
    "(?:ab|cd){2,3}",
    "[a-c]+[0-9]*",
    "[^a-z]{3}",
    "\\d{3}-\\d{4}",
    "\\w{1,3}@\\w{1,3}\\.com",
  ],
  ...[
    "(?<year>\\d{4})-(0[1-9]|1[0-2])",
    "a{0}b",
    "x{2,}",
    "[\\]\\\\^-]+",
    "[a\\-z]",
    "[-a]",
    "\\u00e9\\x41",
    "\\p{Lu}\\p{Ll}{1,3}",
  ],
  ...[
    "[\\s\\S]{2}",
    "\\S+",
    "a.c",
    "(a|b|c){5}",
    "((a|b)*c){2}",
    "[ぁ-ん]{2}",
    "😀+",
    "\\u{1f600}",
    "a+?b*?",
    "\\D\\W",
  ],
  ...["(a*)*b", "(a|a|ab)(c|bcd)(d*)", "^start.{1,4}end$", "^(one|two)$", "[\\d_]{1,3}", "\\t\\n\\r\\f\\v"],
];

describe("patterns", () => {
  for (const source of patterns) {
    test(`the whole text: ${source}`, () => {
      const found = texts(pattern(source), 8);
      expect(found.length).toBeGreaterThan(0);
      for (const one of found) expect(one).toMatch(new RegExp(`^(?:${source})$`, "u"));
    });
  }

  test("any part of the text, and anchors", () => {
    for (const source of ["ab", "^ab", "ab$", "^ab$", "^a|b$", "(^a|b)c", "a(b|c$)", "^", "$", "^a*$"]) {
      for (const one of texts(pattern(source, true), 3)) expect(one).toMatch(new RegExp(source, "u"));
    }
  });

  const refused = [
    "(?=a)",
    "(?!a)",
    "(?<=a)b",
    "(?<!a)b",
    "\\ba",
    "(a)\\1",
    "\\k<a>",
    "(?i)a",
    "(",
    ")",
    "[a",
    "a**",
    "*a",
    "a{2,1}",
    "a{99999}",
    "a^b",
    "a$b",
    "\\p{Nope}",
    "\\q",
    "\\u12",
    "[b-a]",
    "(?:".repeat(200),
  ];
  for (const source of refused) {
    test(`refused: ${source.slice(0, 20)}`, () => {
      expect(() => pattern(source)).toThrow(expect.objectContaining({ code: "unsupported" }));
    });
  }
});

describe("GBNF", () => {
  const cases: readonly (readonly [source: string, matches: RegExp])[] = [
    ['root ::= "yes" | "no"', /^(yes|no)$/],
    ['root ::= ("a" | "b")+ "c"? # a comment\n', /^[ab]+c?$/],
    ["root ::= item{2,3}\nitem ::= [0-9] [^0-9a-z]", /^([0-9][^0-9a-z]){2,3}$/su],
    ['root ::= "a"\n  | "b"\n  | "c"', /^[abc]$/],
    ['root ::= (\n  "x"\n  "y" )', /^xy$/],
    ['root ::= "\\x41\\u00e9\\n\\"" [\\]\\-a]', /^Aé\n"[\]\-a]$/],
    ['root ::= "[" list "]"\nlist ::= "" | [a-c] rest\nrest ::= ("," [a-c])*', /^\[([a-c](,[a-c])*)?\]$/],
    ["root ::= .{3}", /^.{3}$/su],
    ['root ::= "(" root ")" | "x"', /^\(*x\)*$/],
    ['root ::= "a" root | "b"', /^a*b$/],
  ];
  for (const [source, matches] of cases) {
    test(source, () => {
      const found = texts(parseGbnf(source), 8);
      expect(found.length).toBeGreaterThan(0);
      for (const one of found) expect(one).toMatch(matches);
    });
  }

  const refused = [
    ...[
      "",
      "root",
      "root ::= nope",
      'root ::= "a',
      "root ::= [a",
      'root ::= ("a"',
      'a ::= "x"',
      'root ::= root "a" | "b"',
    ],
    ...[
      'root ::= a\na ::= b "x"\nb ::= a | "y"',
      'root ::= "a" root',
      'root ::= "a"\nroot ::= "b"',
      'root ::= "\\q"',
      'root ::= "a"{3,2}',
    ],
    ...['root ::= a "x"\na ::= "" | b\nb ::= a "z" root', `root ::= ${"(".repeat(300)}"a"${")".repeat(300)}`],
  ];
  for (const source of refused) {
    test(`refused: ${source.slice(0, 40)}`, () => {
      expect(() => compileGrammar(parseGbnf(source))).toThrow(
        expect.objectContaining({ code: "unsupported" }),
      );
    });
  }
});

test("choices: each comes, nothing else does, also where one begins another", () => {
  const words = ["yes", "yes!", "no", "日本", "日", "", "a b"];
  const found = texts({ rules: new Map(), root: { kind: "words", of: words } }, 200);
  expect(new Set(found)).toEqual(new Set(words));
});

describe("characters", () => {
  test("ranges: sorted, joined, without surrogates, and what they leave", () => {
    expect(normalRanges([0x62, 0x64, 0x61, 0x62, 0xd7ff, 0xe000])).toEqual([
      0x61, 0x64, 0xd7ff, 0xd7ff, 0xe000, 0xe000,
    ]);
    expect(complement(allRanges)).toEqual([]);
    expect(complement(complement([5, 9, 0x3000, 0x4000]))).toEqual([5, 9, 0x3000, 0x4000]);
    expect(contains([5, 9], 9)).toBe(true);
    expect(contains([5, 9], 10)).toBe(false);
  });

  test("bytes of all characters are UTF-8 and nothing else, at every edge", () => {
    const edges = [
      0, 0x7f, 0x80, 0x7ff, 0x800, 0xfff, 0x1000, 0xd7ff, 0xe000, 0xffff, 0x10000, 0x3ffff, 0x40000, 0x10ffff,
    ];
    const paths = bytePaths(charSet(allRanges, "utf8"));
    const fits = (bytes: readonly number[], of = paths): boolean =>
      of.some(
        (path) =>
          path.length === 2 * bytes.length &&
          bytes.every((b, i) => path[2 * i]! <= b && b <= path[2 * i + 1]!),
      );
    for (const point of edges) expect(fits([...Buffer.from(String.fromCodePoint(point))])).toBe(true);
    for (const bad of [
      [0x80],
      [0xc0, 0x80],
      [0xc1, 0xbf],
      [0xe0, 0x80, 0x80],
      [0xed, 0xa0, 0x80],
      [0xf0, 0x80, 0x80, 0x80],
      [0xf4, 0x90, 0x80, 0x80],
      [0xff],
    ]) {
      expect(fits(bad)).toBe(false);
    }
    for (let i = 0; i < edges.length; i++) {
      for (let j = i; j < edges.length; j++) {
        const some = bytePaths(charSet([edges[i]!, edges[j]!], "utf8"));
        for (const point of edges) {
          const inside = point >= edges[i]! && point <= edges[j]!;
          expect(fits([...Buffer.from(String.fromCodePoint(point))], some)).toBe(inside);
        }
      }
    }
  });

  test("escapes of JSON: the usual ones for a set, all for any character, none of a surrogate", () => {
    const spelled = (encoding: "json" | "jsonAny", text: string): boolean =>
      bytePaths(charSet(allRanges, encoding)).some(
        (path) =>
          path.length === 2 * text.length &&
          [...text].every((c, i) => path[2 * i]! <= c.charCodeAt(0) && c.charCodeAt(0) <= path[2 * i + 1]!),
      );
    for (const written of ["\\n", '\\"', "\\\\", "\\u0001", "\\b"]) {
      expect(spelled("json", written)).toBe(true);
      expect(spelled("jsonAny", written)).toBe(true);
    }
    for (const written of [
      "\\u0041",
      "\\/",
      "\\uABCD",
      "\\ud7ff",
      "\\uE000",
      "\\uDEAD".replace("DEAD", "D0ff"),
    ]) {
      expect(spelled("json", written)).toBe(false);
      expect(spelled("jsonAny", written)).toBe(true);
    }
    for (const bad of ["\\ud800", "\\uDFFF", "\\x41", "\\u12", '"', "\n"])
      expect(spelled("jsonAny", bad)).toBe(false);
  });
});
