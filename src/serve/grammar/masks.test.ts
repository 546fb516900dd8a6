import { beforeAll, describe, expect, test } from "bun:test";
import { PsionicError } from "../../core/error.ts";
import { compileGrammar } from "./compile.ts";
import { Grammars } from "./constraint.ts";
import type { Grammar } from "./expr.ts";
import { parseGbnf } from "./gbnf.ts";
import { Machine } from "./machine.ts";
import { TokenMasks } from "./masks.ts";
import type { State } from "./places.ts";
import { regexExpr } from "./regex.ts";
import { anyGrammar, schemaGrammar } from "./schema.ts";
import { commonSchemas, randomRoot } from "./testing/schemas.ts";
import { allowedTokens, defaultVocabulary, openWalk, seeded, type Vocabulary } from "./testing/walk.ts";
import { packTokens, TokenTrie } from "./token_trie.ts";

let vocabulary: Vocabulary;
let trie: TokenTrie;
beforeAll(() => {
  vocabulary = defaultVocabulary();
  trie = new TokenTrie(packTokens(vocabulary.tokenizer, new Set()), vocabulary.width);
});

const pattern = (source: string, search: boolean): Grammar => ({
  rules: new Map(),
  root: regexExpr(source, { what: "pattern", encoding: "utf8", search }),
});

const grammars: readonly (readonly [string, () => Grammar])[] = [
  ["any JSON", () => anyGrammar("value")],
  [
    "short strings",
    () => schemaGrammar({ type: "array", items: { type: "string", minLength: 2, maxLength: 5 } }),
  ],
  ["optional properties", () => schemaGrammar(commonSchemas.find(([name]) => name.startsWith("many"))![1])],
  [
    "a list through references",
    () => schemaGrammar(commonSchemas.find(([name]) => name.startsWith("a linked"))![1]),
  ],
  ["a search", () => pattern("ab+c|x.y", true)],
  ["counted characters before others", () => pattern("[a-z]{2,9}[a-z0-9]{1,4}\\d*", false)],
  ["two readings", () => parseGbnf('root ::= a | b\na ::= [a-m]* "x"\nb ::= ([a-z] [a-z])* "x"')],
  ["words around rules", () => parseGbnf('root ::= (word " ")* "."\nword ::= [A-Za-z]+')],
  ["nesting", () => parseGbnf('root ::= "(" root ")" | "[" root "]" | "x"')],
];

describe("a mask allows just the tokens whose bytes lead somewhere", () => {
  for (const [name, grammar] of grammars) {
    test(name, () => {
      const program = compileGrammar(grammar());
      const masks = new TokenMasks(new Machine(program), trie);
      // followed byte by byte on a machine of its own
      const plain = new Machine(program);
      const random = seeded(3);
      for (let walk = 0; walk < 3; walk++) {
        let [state, other]: [State, State] = [masks.machine.start, plain.start];
        for (let step = 0; step < 12; step++) {
          const words = masks.mask(state);
          const allowed: number[] = [];
          for (let id = 0; id < vocabulary.width; id++) {
            const bytes = trie.bytesOf(id);
            let next: State | null = other;
            for (let i = 0; bytes && next && i < bytes.length; i++) next = plain.step(next, bytes[i]!);
            if (bytes && next) allowed.push(id);
          }
          expect(allowedTokens({ words, count: 0 })).toEqual(allowed);
          if (allowed.length === 0) break;
          const token = allowed[Math.floor(random() * allowed.length)]!;
          for (const byte of trie.bytesOf(token)!) {
            state = masks.machine.step(state, byte)!;
            other = plain.step(other, byte)!;
          }
        }
      }
    });
  }
});

test("the tree of tokens has every token once, at the end of its bytes", () => {
  const found = new Map<number, string>();
  const path: number[] = [];
  for (let node = 0; node < trie.size; node++) {
    path.length = trie.depth[node]! - 1;
    path.push(trie.byte[node]!);
    expect(trie.end[node]).toBeGreaterThan(node);
    for (let i = trie.first[node]!; i < trie.first[node + 1]!; i++)
      found.set(trie.ids[i]!, Buffer.from(path).toString("hex"));
  }
  for (let id = 0; id < vocabulary.width; id++) {
    const bytes = vocabulary.tokenizer.tokenBytes(id);
    const isText = !vocabulary.tokenizer.isControl(id) && bytes.length > 0;
    expect(found.get(id)).toBe(
      isText ? Buffer.from(bytes).toString("hex") : (undefined as unknown as string),
    );
  }
});

test("control tokens are never allowed but where the grammar names them, the end only where the text is whole", () => {
  const { tokenizer, stop } = vocabulary;
  const mark = tokenizer.idOf("<|channel|>")!;
  const grammars = new Grammars(vocabulary.width);
  grammars.learn(packTokens(tokenizer, new Set()));
  const program = compileGrammar({
    rules: new Map(),
    root: {
      kind: "seq",
      of: [
        { kind: "text", text: "a" },
        { kind: "token", id: mark },
        { kind: "text", text: "b" },
      ],
    },
  });
  const constraint = grammars.add("marks", program).open({ digest: "marks", consumed: [], stops: [stop] });
  const bytes = (text: string): number => {
    for (let id = 0; id < vocabulary.width; id++)
      if (!tokenizer.isControl(id) && Buffer.from(tokenizer.tokenBytes(id)).toString("latin1") === text)
        return id;
    throw new Error(`no token ${text}`);
  };
  const controls = (): number[] => allowedTokens(constraint.mask()).filter((id) => tokenizer.isControl(id));
  expect(controls()).toEqual([]);
  constraint.accept(bytes("a"));
  expect(allowedTokens(constraint.mask())).toEqual([mark]);
  expect(() => constraint.accept(bytes("b"))).toThrow(expect.objectContaining({ code: "invalid_request" }));
  constraint.accept(mark);
  expect(constraint.ended).toBe(false);
  constraint.accept(bytes("b"));
  expect(constraint.ended).toBe(true);
  expect(allowedTokens(constraint.mask())).toEqual([stop]);
});

test("what is remembered changes nothing: masks of many grammars, in any order, with memory given up in between", () => {
  const answers = (forgetful: boolean): string[] => {
    let shared = defaultVocabulary();
    return [0, 4, 5, 9].map((at, i) => {
      if (forgetful && i > 1) shared = defaultVocabulary();
      const walk = openWalk(shared, schemaGrammar(commonSchemas[at]![1]));
      return walk(seeded(at)).text + walk(seeded(at)).text;
    });
  };
  expect(answers(true)).toEqual(answers(false));
});

describe("hostile grammars end in time, with an answer or a typed error", () => {
  const nested = (depth: number): unknown =>
    depth === 0 ? { type: "null" } : { type: "array", items: nested(depth - 1) };
  const cases: readonly (readonly [name: string, () => Grammar, answer: "served" | "refused"])[] = [
    [
      "50,000 listed values",
      () => schemaGrammar({ enum: Array.from({ length: 50_000 }, (_, i) => `value ${i}`) }),
      "served",
    ],
    [
      "2 MB of listed values",
      () => schemaGrammar({ enum: Array.from({ length: 50_000 }, (_, i) => `${"x".repeat(40)}${i}`) }),
      "refused",
    ],
    ["a pattern of 5,000 characters", () => pattern(`^${"(ab|c[d-f]?)".repeat(416)}$`, true), "served"],
    ["a pattern of 30,000 characters", () => pattern("a".repeat(30_000), false), "refused"],
    ["counts within counts", () => pattern("((a{1,1000}b){1,1000}c){1,1000}", false), "refused"],
    ["a pattern with exponentially many readings", () => pattern("(a|a)*(a|aa)*(a*)*b", false), "served"],
    ["maxLength 100,000", () => schemaGrammar({ type: "string", maxLength: 100_000 }), "served"],
    [
      "10,000 items",
      () => schemaGrammar({ type: "array", items: { type: "boolean" }, maxItems: 10_000 }),
      "served",
    ],
    [
      "a million items",
      () => schemaGrammar({ type: "array", items: { type: "boolean" }, maxItems: 1_000_000 }),
      "refused",
    ],
    [
      "1,000 properties",
      () =>
        schemaGrammar({
          type: "object",
          properties: Object.fromEntries(
            Array.from({ length: 1000 }, (_, i) => [`property ${i}`, { type: "integer" }]),
          ),
        }),
      "served",
    ],
    ["arrays 100 deep", () => schemaGrammar(nested(100)), "served"],
    ["arrays 1,000 deep", () => schemaGrammar(nested(1000)), "refused"],
    [
      "anyOf to the tenth power",
      () =>
        schemaGrammar({
          allOf: Array.from({ length: 10 }, (__, k) => ({
            anyOf: Array.from({ length: 10 }, (_, i) => ({
              type: "object",
              properties: { [`p${k}.${i}`]: {} },
            })),
          })),
        }),
      "refused",
    ],
    ["palindromes", () => parseGbnf('root ::= "a" root "a" | "b" root "b" | "c" root "c" | [d-z]'), "served"],
    [
      "10,000 rules in a row",
      () =>
        parseGbnf(
          Array.from(
            { length: 10_000 },
            (_, i) => `${i === 0 ? "root" : `r${i}`} ::= "a" ${i === 9999 ? "" : `r${i + 1}`}`,
          ).join("\n"),
        ),
      "served",
    ],
  ];
  for (const [name, grammar, answer] of cases) {
    test(name, () => {
      const start = process.cpuUsage();
      let served = true;
      try {
        openWalk(vocabulary, grammar())(seeded(1), { patience: 5, most: 60 });
      } catch (error) {
        if (!(error instanceof PsionicError && error.code === "unsupported")) throw error;
        served = false;
      }
      expect(served ? "served" : "refused").toBe(answer);
      // processor time: machines are shared
      expect(process.cpuUsage(start).user).toBeLessThan(16e6);
    });
  }

  test("recursion ends at a bounded depth, and the answer is still whole", () => {
    const walk = openWalk(vocabulary, parseGbnf('root ::= "[" root "]" | "x"'));
    const open = [..."["].map((c) => c.charCodeAt(0));
    expect(open).toHaveLength(1);
    const deep = schemaGrammar({
      $ref: "#/$defs/n",
      $defs: { n: { type: "array", items: { $ref: "#/$defs/n" }, minItems: 0, maxItems: 1 } },
    });
    const greedy = openWalk(vocabulary, deep);
    // the first allowed token is always taken, which opens one list after the other
    const { text, whole } = greedy(() => 0, { patience: 5000, most: 5000 });
    expect(whole).toBe(true);
    JSON.parse(text);
    expect(walk(() => 0.99, { patience: 5000, most: 5000 }).whole).toBe(true);
  });
});

test("random schemas: masks stay the same when they are found in another order", () => {
  for (let seed = 1; seed <= 10; seed++) {
    const schema = randomRoot(seeded(seed));
    let program: ReturnType<typeof compileGrammar>;
    try {
      program = compileGrammar(schemaGrammar(schema));
    } catch {
      // refused schemas have masks of no kind
      continue;
    }
    const [one, other] = [
      new TokenMasks(new Machine(program), trie),
      new TokenMasks(new Machine(program), trie),
    ];
    const random = seeded(seed);
    const path: number[] = [];
    let state: State = one.machine.start;
    for (let step = 0; step < 15; step++) {
      const allowed = allowedTokens({ words: one.mask(state), count: 0 });
      if (allowed.length === 0) break;
      const token = allowed[Math.floor(random() * allowed.length)]!;
      path.push(token);
      for (const byte of trie.bytesOf(token)!) state = one.machine.step(state, byte)!;
    }
    // only the last mask is asked of the other one
    let last: State = other.machine.start;
    for (const token of path) for (const byte of trie.bytesOf(token)!) last = other.machine.step(last, byte)!;
    expect(other.mask(last)).toEqual(one.mask(state));
  }
});

describe("a mask that takes long is looked for in pieces", () => {
  const open = (grammar: Grammar) => {
    const grammars = new Grammars(vocabulary.width);
    grammars.learn(packTokens(vocabulary.tokenizer, new Set()));
    grammars.add("g", compileGrammar(grammar));
    return () => grammars.open({ digest: "g", consumed: [], stops: [] });
  };

  test("and is the same that is found at once", () => {
    const names = Array.from({ length: 400 }, (_, i) => `n${i.toString(36)}`);
    const alternatives = names.map((name) => ({
      type: "object",
      properties: { [name]: { const: name } },
      required: [name],
    }));
    const [pieces, whole] = [
      open(schemaGrammar({ anyOf: alternatives })),
      open(schemaGrammar({ anyOf: alternatives })),
    ];
    const constraint = pieces();
    let turns = 1;
    while (!constraint.prepare(0.2)) turns += 1;
    expect(turns).toBeGreaterThan(2);
    expect(constraint.mask()).toEqual(whole().mask());
    expect(constraint.prepare(4)).toBe(true);
  }, 120_000);

  test("and has an end", () => {
    const masks = new TokenMasks(new Machine(compileGrammar(anyGrammar("value"))), trie);
    const nearlySpent = { work: 8_000_000 - 1, made: 0 };
    const search = () => {
      while (!masks.advance(masks.machine.start, nearlySpent, 4));
    };
    expect(search).toThrow(
      expect.objectContaining({ code: "unsupported", message: expect.stringContaining("a bounded time") }),
    );
    // what was found is of use to who has more time
    const { work } = masks.machine;
    masks.mask(masks.machine.start);
    expect(masks.machine.work).toBeGreaterThan(work);
  });
});
