/** Requests with a grammar through the engine's worker, over the double whose tokens are numbers below 97. */
import { afterAll, expect, test } from "bun:test";
import { compileGrammar, packProgram, packTokens, parseGbnf } from "../grammar/index.ts";
import type { GenerateEvent, GenerateRequest, RequestConstraint } from "../protocol.ts";
import { startWorker } from "./client.ts";

const engine = await startWorker(new URL("./testing/double_worker.ts", import.meta.url), {
  modelPath: "double",
  backend: "cpu",
});
afterAll(() => engine.close(true));

/** Token i is the i-th letter from `!` on; the last one ends answers. */
const stop = 96;
const tokens = {
  vocabularySize: 97,
  tokenBytes: (id: number) => Uint8Array.of(0x21 + id),
  isControl: (id: number) => id >= 94,
};
let packed = 0;

function constrained(grammar: string, more: Partial<RequestConstraint> = {}): RequestConstraint {
  return {
    program: packProgram(compileGrammar(parseGbnf(grammar))),
    digest: grammar,
    consumed: [],
    stops: [stop],
    vocabulary: () => {
      packed += 1;
      return packTokens(tokens, new Set());
    },
    ...more,
  };
}

async function run(request: Partial<GenerateRequest>): Promise<{ texts: string[]; events: GenerateEvent[] }> {
  const events: GenerateEvent[] = [];
  const whole = {
    prompt: [1, 2, 3],
    sampling: {},
    stopTokens: [stop],
    choices: 1,
    maxTokens: 20,
    ...request,
  };
  for await (const event of engine.generate(whole)) events.push(event);
  const texts = Array.from({ length: whole.choices }, () => "");
  for (const event of events) {
    if (event.type === "token") texts[event.choice] += String.fromCharCode(0x21 + event.token);
  }
  return { texts, events };
}

const reasons = (events: readonly GenerateEvent[]): string[] =>
  events.flatMap((event) => (event.type === "done" ? [event.reason] : []));

test("every choice keeps to the grammar and ends with it", async () => {
  for (const sampling of [{}, { temperature: 2, topK: 0, topP: 1, seed: 3 }, { temperature: 1, seed: 4 }]) {
    const { texts, events } = await run({
      ...{ sampling, choices: 4, topLogprobs: 1 },
      constraint: constrained('root ::= "a" [b-d]{2,3} "z"'),
    });
    for (const text of texts) expect(text).toMatch(/^a[b-d]{2,3}z$/);
    expect(reasons(events)).toEqual(["stop", "stop", "stop", "stop"]);
  }
});

test("the vocabulary travels once; a program travels once and is there for later requests", async () => {
  await run({ constraint: constrained('root ::= "x" | "y"') });
  const before = packed;
  const { texts } = await run({ constraint: constrained('root ::= "x" | "y"') });
  expect(["x", "y"]).toContain(texts[0]!);
  expect(packed).toBe(before);
  // more programs than are kept
  for (let i = 0; i < 140; i++) {
    const end = String.fromCharCode(0x61 + (i % 20));
    expect((await run({ constraint: constrained(`root ::= "${i}${end}"`) })).texts).toEqual([`${i}${end}`]);
  }
  expect(["x", "y"]).toContain((await run({ constraint: constrained('root ::= "x" | "y"') })).texts[0]!);
});

test("an answer that may end is ended by a stop token, one at its limit by length", async () => {
  const { events } = await run({ constraint: constrained("root ::= [a-z]*") });
  const [done] = events.flatMap((event) => (event.type === "done" ? [event] : []));
  expect(done).toMatchObject(done?.reason === "stop" ? { stopToken: stop } : { reason: "length" });
  expect(reasons((await run({ constraint: constrained('root ::= "abcdef"'), maxTokens: 3 })).events)).toEqual(
    ["length"],
  );
  const exact = await run({ constraint: constrained('root ::= "abc"'), maxTokens: 3 });
  expect(exact.texts).toEqual(["abc"]);
  expect(reasons(exact.events)).toEqual(["stop"]);
});

test("tokens that the server wrote are behind the grammar's beginning; ones that do not fit are refused", async () => {
  const consumed = [..."ab"].map((c) => c.charCodeAt(0) - 0x21);
  const constraint = constrained('root ::= "abc" [d-f]', { consumed });
  expect((await run({ constraint })).texts[0]).toMatch(/^c[d-f]$/);
  const wrong = constrained('root ::= "xyz"', { consumed });
  await expect(run({ constraint: wrong })).rejects.toMatchObject({ code: "invalid_request" });
});

test("a grammar that this vocabulary cannot write ends its own request, and no other", async () => {
  const other = run({ constraint: constrained("root ::= [a-z]{15}"), maxTokens: 15 });
  await expect(run({ constraint: constrained('root ::= "aé"'), choices: 3 })).rejects.toMatchObject({
    code: "unsupported",
  });
  expect((await other).texts[0]).toMatch(/^[a-z]{15}$/);
});
