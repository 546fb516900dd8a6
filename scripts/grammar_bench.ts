/**
 * What the masks of structured output cost, per sequence and token. Usage: bun scripts/grammar_bench.ts [MODEL]
 * MODEL: a file whose vocabulary is used; without it one of 200,000 made-up words.
 * Output: one line per answer on stdout: the first one under a grammar, the same again, and others. Processor time, so that
 * other work on the machine counts less.
 */
import { openModelFiles } from "../src/models/files/source.ts";
import { openTokenizer } from "../src/models/open_tokenizer.ts";
import {
  anyGrammar,
  compileGrammar,
  type Grammar,
  Grammars,
  packTokens,
  schemaGrammar,
  type TokenBytes,
} from "../src/serve/grammar/index.ts";

const schema = {
  type: "object",
  properties: {
    id: { type: "integer" },
    title: { type: "string", maxLength: 200 },
    body: { type: "string" },
    tags: { type: "array", items: { type: "string" } },
    author: {
      type: "object",
      properties: {
        name: { type: "string" },
        email: { type: "string", format: "email" },
        age: { type: "integer", minimum: 0, maximum: 150 },
      },
      required: ["name"],
    },
    status: { enum: ["draft", "published", "archived"] },
    score: { type: "number" },
    created: { type: "string", format: "date-time" },
  },
  required: ["id", "title", "body", "tags", "author", "status"],
};

function answer(n: number): string {
  return JSON.stringify({
    id: 42 + n,
    title: `A long story about grammars, number ${n}, and the "masks" between them`,
    body: `It was a dark night.\nThe model wrote ${n} words, token by token; naïve users were happy, 日本語 too.`,
    tags: ["one", `two ${n}`, "three"],
    author: { name: "Ada Lovelace", email: "ada@example.org", age: 36 },
    status: "published",
    score: 12.5,
    created: "2026-11-25T15:00:00Z",
  });
}

function madeUp(size: number): TokenBytes {
  const syllables = [
    "a",
    "th",
    "er",
    "in",
    "gra",
    "mm",
    "tok",
    "en",
    "ma",
    "sk",
    "wor",
    "ds",
    "é",
    "st",
    "or",
    "y",
  ];
  const signs = [
    '"',
    '",',
    '":',
    "{",
    "}",
    "[",
    "]",
    '{"',
    '"}',
    ",",
    ":",
    " ",
    "\n",
    ".",
    "-",
    "0",
    "12",
    "\\",
  ];
  const texts = new Set<string>([...signs, ...syllables]);
  for (let n = 0; texts.size < size - 256; n++) {
    let word = n % 3 === 0 ? " " : "";
    for (let rest = n; rest > 0; rest = Math.floor(rest / syllables.length))
      word += syllables[rest % syllables.length]!;
    texts.add(n % 101 === 0 ? word + signs[n % signs.length]! : word);
  }
  const bytes = [
    ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
    ...[...texts].map((t) => new TextEncoder().encode(t)),
  ];
  return { vocabularySize: bytes.length, tokenBytes: (id) => bytes[id]!, isControl: () => false };
}

/** The longest token at each place: not what a tokenizer does, but tokens of the usual lengths. */
function tokensOf(text: string, ids: ReadonlyMap<string, number>): number[] {
  const bytes = Buffer.from(text, "utf8").toString("latin1");
  const tokens: number[] = [];
  for (let at = 0; at < bytes.length; ) {
    let length = Math.min(24, bytes.length - at);
    while (!ids.has(bytes.slice(at, at + length))) length -= 1;
    tokens.push(ids.get(bytes.slice(at, at + length))!);
    at += length;
  }
  return tokens;
}

function processorMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

function timed<T>(run: () => T): [value: T, ms: number] {
  const start = processorMs();
  const value = run();
  return [value, processorMs() - start];
}

const [model] = process.argv.slice(2);
const tokens: TokenBytes = model === undefined ? madeUp(200_000) : openTokenizer(openModelFiles(model));
const ids = new Map<string, number>();
for (let id = 0; id < tokens.vocabularySize; id++) {
  if (!tokens.isControl(id)) ids.set(Buffer.from(tokens.tokenBytes(id)).toString("latin1"), id);
}
const [packed, packMs] = timed(() => packTokens(tokens, new Set()));
const grammars = new Grammars(tokens.vocabularySize);
const [, learnMs] = timed(() => grammars.learn(packed));
console.log(
  `${tokens.vocabularySize} tokens: sorted in ${packMs.toFixed(0)} ms, tree in ${learnMs.toFixed(0)} ms`,
);

function follow(name: string, grammar: Grammar, texts: readonly string[]): void {
  const [program, compileMs] = timed(() => compileGrammar(grammar));
  console.log(`${name}: compiled in ${compileMs.toFixed(1)} ms`);
  for (const [i, text] of texts.entries()) {
    const sequence = tokensOf(text, ids);
    const [, ms] = timed(() => {
      const constraint = grammars.add(name, program).open({ digest: name, consumed: [], stops: [0] });
      for (const token of sequence) {
        constraint.mask();
        constraint.accept(token);
        if (constraint.ended) break;
      }
    });
    console.log(
      `  answer ${i}, ${sequence.length} tokens: ${((1000 * ms) / sequence.length).toFixed(1)} us per token`,
    );
  }
}

const answers = [0, 0, 0, 1, 2, 3, 4, 5].map(answer);
follow("a schema", schemaGrammar(schema), answers);
follow("any JSON", anyGrammar("object"), answers);
follow(
  "a search",
  schemaGrammar({ type: "string", pattern: "foo[0-9]+bar" }),
  answers.map((text) => JSON.stringify(`${text.slice(0, 40)}foo12bar`)),
);
