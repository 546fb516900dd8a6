import { afterEach, expect, test } from "bun:test";
import { compileGrammar } from "./compile.ts";
import { type CompilerLimits, GrammarCompiler } from "./compiler.ts";
import { parseGbnf } from "./gbnf.ts";
import { packProgram, unpackProgram } from "./pack.ts";
import { schemaGrammar } from "./schema.ts";
import type { GrammarTask } from "./task.ts";

const { signal } = new AbortController();
const open: GrammarCompiler[] = [];
afterEach(() => {
  for (const compiler of open.splice(0)) compiler.close();
});

function compiler(limits: Partial<CompilerLimits> = {}): GrammarCompiler {
  const made = new GrammarCompiler(limits);
  open.push(made);
  return made;
}

function choice(...texts: readonly string[]): GrammarTask {
  return { kind: "text", output: { field: "guided_choice", kind: "choice", source: texts } };
}

/** Keeps a thread busy for about a second, and is refused then. */
function slow(salt: number): GrammarTask {
  const ranges = Array.from({ length: 5000 }, (_, i) => ({
    type: "integer",
    minimum: i * 1e9 + salt,
    maximum: i * 1e11 + 10_007,
  }));
  return { kind: "text", output: { field: "guided_json", kind: "json_schema", source: { anyOf: ranges } } };
}

test("a program survives being packed", () => {
  for (const grammar of [
    parseGbnf('root ::= "a" [b-d]* (root | "é")'),
    schemaGrammar({
      type: "object",
      properties: { a: { enum: ["x\ny", "é", "", "zz", 5] } },
      required: ["a"],
    }),
    { rules: new Map(), root: { kind: "words", of: ["b", "a", "öl", ""] } } as const,
  ]) {
    const program = compileGrammar(grammar);
    const again = unpackProgram(packProgram(program));
    expect({ ...again, edges: [...Array.from(again.edges)] }).toEqual({
      ...program,
      edges: [...Array.from(program.edges)],
    });
  }
});

test("compiles elsewhere what would be compiled here; equal tasks are one", async () => {
  const one = compiler();
  const [a, b] = await Promise.all([
    one.compile(choice("yes", "no"), "x", signal),
    one.compile(choice("yes", "no"), "y", signal),
  ]);
  expect(b).toBe(a);
  expect(await one.compile(choice("yes", "no"), "x", signal)).toBe(a);
  const here = packProgram(compileGrammar({ rules: new Map(), root: { kind: "words", of: ["yes", "no"] } }));
  expect(a.program).toEqual(here);
  expect((await one.compile(choice("yes"), "x", signal)).digest).not.toBe(a.digest);
});

test("a refusal names the field, and is not remembered as an answer", async () => {
  const one = compiler();
  const bad: GrammarTask = {
    kind: "text",
    output: { field: "guided_json", kind: "json_schema", source: { not: {} } },
  };
  for (let i = 0; i < 2; i++) {
    await expect(one.compile(bad, "x", signal)).rejects.toMatchObject({
      code: "unsupported",
      details: { field: "guided_json", keyword: "not" },
    });
  }
});

test("what takes too long or is too large is refused, and the next one is served", async () => {
  const one = compiler({ mostMs: 50, mostText: 2 ** 20 });
  await expect(one.compile(slow(1), "x", signal)).rejects.toMatchObject({
    code: "unsupported",
    message: expect.stringContaining("compiled within 50 ms"),
    details: { field: "guided_json" },
  });
  await expect(one.compile(choice("x".repeat(2 ** 20)), "x", signal)).rejects.toMatchObject({
    code: "unsupported",
    message: expect.stringContaining("1048576 characters"),
  });
  const patient = compiler();
  expect((await patient.compile(choice("after"), "x", signal)).program.length).toBeGreaterThan(6);
});

test("one client's slow schemas leave a thread to the others; a full queue is refused", async () => {
  const one = compiler({ threads: 2, mostWaiting: 3 });
  const ended: string[] = [];
  const told = (name: string, of: Promise<unknown>) =>
    of.then(
      () => ended.push(name),
      () => ended.push(name),
    );
  const slows = [1, 2, 3].map((salt) => told(`slow ${salt}`, one.compile(slow(salt), "hostile", signal)));
  const quick = told("quick", one.compile(choice("a"), "other", signal));
  const more = told("slow 4", one.compile(slow(4), "hostile", signal));
  await expect(one.compile(slow(5), "hostile", signal)).rejects.toMatchObject({ code: "queue_full" });
  await quick;
  expect(ended).toEqual(["quick"]);
  one.close();
  await Promise.all([...slows, more]);
});

test("one client's many schemas neither fill the queue for the others nor put them behind", async () => {
  const one = compiler({ threads: 2, mostWaiting: 4 });
  const ended: string[] = [];
  const told = (name: string, of: Promise<unknown>) =>
    of.then(
      () => ended.push(name),
      ({ code }) => ended.push(`${name} ${code}`),
    );
  const hostile = [1, 2, 3, 4, 5].map((salt) =>
    told(`slow ${salt}`, one.compile(slow(salt), "hostile", signal)),
  );
  await expect(one.compile(slow(6), "hostile", signal)).rejects.toMatchObject({ code: "queue_full" });
  const others = ["b", "c"].map((name) => told(name, one.compile(choice(name), name, signal)));
  await Promise.all(others);
  // the last of the one with the most had to make room, once: the thread that was free took the first of the others
  expect(ended.filter((end) => !end.endsWith("unsupported"))).toEqual(["slow 5 queue_full", "b", "c"]);
  one.close();
  await Promise.all(hostile);
});

test("what nobody wants any more is stopped; who still waits gets it", async () => {
  const one = compiler({ threads: 1 });
  const [first, second, third] = [new AbortController(), new AbortController(), new AbortController()];
  const running = one.compile(slow(1), "x", first.signal);
  const shared = [second, third].map(({ signal: own }) => one.compile(choice("shared"), "x", own));
  const dropped = one.compile(slow(2), "x", first.signal);
  const all = Promise.allSettled([running, dropped, ...shared]);
  second.abort();
  first.abort();
  const cancelled = { status: "rejected", reason: { code: "cancelled" } };
  expect(await all).toMatchObject([cancelled, cancelled, cancelled, { status: "fulfilled" }]);
  await expect(one.compile(choice("never"), "x", first.signal)).rejects.toMatchObject({ code: "cancelled" });
});

test("a thread that ends by itself ends its task, and the next one has another thread", async () => {
  const one = compiler({ threads: 1 });
  const threads = Reflect.get(one, "threads") as ReadonlySet<{ readonly worker: Worker }>;
  const end = () => {
    for (const { worker } of threads) worker.terminate();
  };
  await one.compile(choice("a"), "x", signal);
  end();
  while (threads.size > 0) await Bun.sleep(5);
  expect((await one.compile(choice("b"), "x", signal)).program.length).toBeGreaterThan(6);
  const running = one.compile(slow(1), "x", signal);
  end();
  await expect(running).rejects.toMatchObject({ code: "internal" });
  expect((await one.compile(choice("c"), "x", signal)).program.length).toBeGreaterThan(6);
}, 120_000);
