import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { PsionicError } from "../../core/error.ts";
import type { EngineOptions, GenerateEvent, GenerateRequest, TokenIds } from "../protocol.ts";
import { type EngineClient, startWorker } from "./client.ts";
import { allocateLink, LinkEnd } from "./link.ts";

const entry = new URL("./testing/double_worker.ts", import.meta.url);
/** A prompt that begins with this token makes the worker of these tests exit in the middle of a step. */
const deadlyToken = 96;
/** And with this one the device fails. */
const failingToken = 95;
const options: EngineOptions = { modelPath: "double", backend: "cpu" };

function request(prompt: TokenIds, more: Partial<GenerateRequest> = {}): GenerateRequest {
  return { prompt, sampling: {}, stopTokens: [], choices: 1, maxTokens: 12, ...more };
}

async function all(events: AsyncIterable<GenerateEvent>): Promise<GenerateEvent[]> {
  const out: GenerateEvent[] = [];
  for await (const event of events) out.push(event);
  return out;
}

function tokens(events: readonly GenerateEvent[]): number[] {
  return events.flatMap((e) => (e.type === "token" ? [e.token] : []));
}

async function until(condition: () => boolean): Promise<void> {
  const end = performance.now() + 5000;
  while (!condition()) {
    if (performance.now() > end) throw new Error("waited 5 s in vain");
    await Bun.sleep(1);
  }
}

async function failure(promise: Promise<unknown>): Promise<PsionicError> {
  try {
    await promise;
  } catch (error) {
    return error as PsionicError;
  }
  throw new Error("expected a failure");
}

describe("link", () => {
  test("messages of any size and number arrive in order, with both sides taking turns", () => {
    const memory = allocateLink();
    const main = new LinkEnd(memory, "main");
    const worker = new LinkEnd(memory, "worker");
    const sizes = [0, 1, 3, 1000, 600_000, 5, 2, 300_000, 0];
    for (const n of sizes)
      main.send(
        { n },
        Int32Array.from({ length: n }, (_, i) => i * 7),
      );
    const got: number[] = [];
    for (let i = 0; i < 50 && got.length < sizes.length; i++) {
      for (const { body, numbers } of worker.receive()) {
        expect(numbers.length).toBe((body as { n: number }).n);
        expect(numbers.at(-1)).toBe(numbers.length === 0 ? undefined : (numbers.length - 1) * 7);
        got.push(numbers.length);
      }
      main.receive();
    }
    expect(got).toEqual(sizes);
  });

  test("the writer is rung when a full pipe was read, and only then", () => {
    const memory = allocateLink();
    const main = new LinkEnd(memory, "main");
    const worker = new LinkEnd(memory, "worker");
    main.send("small");
    worker.receive();
    expect(main.bell()).toBe(0);
    main.send("large", new Int32Array(400_000));
    worker.receive();
    expect(main.bell()).toBe(1);
  });

  test("an announced message is looked for until it comes, or for so long", () => {
    const memory = allocateLink();
    const main = new LinkEnd(memory, "main");
    const worker = new LinkEnd(memory, "worker");
    expect(worker.takeAnnounced()).toBe(false);
    const asleep = worker.bell();
    main.announce();
    expect(worker.watch(asleep, 0)).toBe(true);
    expect(worker.takeAnnounced()).toBe(true);
    expect(worker.takeAnnounced()).toBe(false);
    const seen = worker.bell();
    expect(worker.watch(seen, 0)).toBe(false);
    main.send("it");
    expect(worker.watch(seen, 0)).toBe(true);
    expect(worker.receive().map(({ body }) => body)).toEqual(["it"]);
  });

  test("numbers arrive behind a text of any length, whole or in parts", () => {
    const memory = allocateLink();
    const [main, worker] = [new LinkEnd(memory, "main"), new LinkEnd(memory, "worker")];
    for (let length = 0; length < 9; length++) main.send("é".repeat(length), Int32Array.of(length, -1));
    main.send("last", new Int32Array(300_000).fill(7));
    const got = [...worker.receive()];
    while (!main.flush() || got.length < 10) got.push(...worker.receive());
    expect(got.map(({ body }) => body)).toEqual([
      ...Array.from({ length: 9 }, (_, length) => "é".repeat(length)),
      "last",
    ]);
    expect(got.slice(0, 9).map(({ numbers }) => [...numbers])).toEqual(
      Array.from({ length: 9 }, (_, length) => [length, -1]),
    );
    expect(got[9]!.numbers.every((n) => n === 7)).toBe(true);
  });

  test("counters pass 2^31 and 2^32", () => {
    const memory = allocateLink();
    for (const start of [2 ** 31 - 1000, 2 ** 32 - 1000]) {
      new Int32Array(memory.rings[0], 0, 2).fill(start | 0);
      const main = new LinkEnd(memory, "main");
      const worker = new LinkEnd(memory, "worker");
      for (let i = 0; i < 20; i++) {
        main.send(i, new Int32Array(30).fill(i));
        const [message] = worker.receive();
        expect(message?.body).toBe(i);
        expect(message?.numbers[29]).toBe(i);
      }
    }
  });
});

describe("engine client", () => {
  let engine: EngineClient | undefined;
  const open = async () => {
    engine ??= await startWorker(entry, options);
    return engine;
  };
  afterAll(async () => {
    await engine?.close(true);
  });

  test("200 streams at once complete, each with its own tokens", async () => {
    const e = await open();
    const asks = Array.from({ length: 200 }, (_, i) =>
      request([i % 90, (i * 7) % 90, 5], { client: `c${i % 5}` }),
    );
    const together = await Promise.all(asks.map((ask) => all(e.generate(ask))));
    for (const i of [0, 1, 77, 199]) {
      expect(tokens(together[i]!)).toEqual(tokens(await all(e.generate(asks[i]!))));
    }
    for (const events of together) {
      expect(tokens(events).length).toBe(12);
      expect(events.at(-1)?.type).toBe("end");
    }
    expect(e.stats()).toMatchObject({ active: 0, queued: 0, pagesUsed: 0, arenaPeakBytes: 42 });
  });

  test("a slow reader holds nobody up", async () => {
    const e = await open();
    const slow = e.generate(request([1, 2], { maxTokens: 5000 }))[Symbol.asyncIterator]();
    await slow.next();
    expect(tokens(await all(e.generate(request([3, 4])))).length).toBe(12);
    let n = 0;
    for (let r = await slow.next(); !r.done; r = await slow.next()) if (r.value.type === "token") n += 1;
    expect(n).toBe(5000);
  });

  test("a prompt that was expected is that of the request that has it, and of no other", async () => {
    const e = await open();
    const prompts = [1, 2, 3].map((seed) => Array.from({ length: 70 + seed }, (_, i) => (i * seed) % 90));
    const plain: number[][] = [];
    for (const prompt of prompts) plain.push(tokens(await all(e.generate(request(prompt)))));
    const [a, b, c] = prompts as [number[], number[], number[]];
    e.expect({ prompt: a });
    e.expect({ prompt: b, tenant: "b" });
    const both = [a, b].map((prompt) => all(e.generate(request(prompt))));
    e.expect({ prompt: c });
    expect((await failure(all(e.generate(request([]))))).code).toBe("invalid_request");
    const third = all(e.generate(request(Int32Array.from(c))));
    expect((await Promise.all([...both, third])).map(tokens)).toEqual(plain);
    e.expect({ prompt: c });
    expect(tokens(await all(e.generate(request(c))))).toEqual(plain[2]!);
    expect(e.stats().active).toBe(0);
  });

  test("a rehearsed request is answered, and counts for nothing", async () => {
    const e = await open();
    const { promptTokens, steps } = e.stats();
    const rehearsed = request([1, 2, 3], { rehearsal: true, maxTokens: 2 });
    for (let i = 0; i < 3; i++) expect(tokens(await all(e.generate(rehearsed)))).toEqual([0, 0]);
    expect(e.stats()).toMatchObject({ promptTokens, steps });
  });

  test("a million prompt tokens pass", async () => {
    const e = await open();
    const prompt = Array.from({ length: 1_000_000 }, (_, i) => i % 90);
    const events: string[] = [];
    for await (const event of e.generate(request(prompt, { maxTokens: 1 }))) {
      events.push(event.type);
      if (events.length === 3) break;
    }
    expect(events).toEqual(["prefill", "prefill", "prefill"]);
    await until(() => e.stats().active === 0);
  });

  test("aborting ends the stream with what was cancelled; leaving the loop frees the slot, also mid-read", async () => {
    const e = await open();
    const controller = new AbortController();
    const events: GenerateEvent[] = [];
    for await (const event of e.generate(request([1], { maxTokens: 100_000 }), controller.signal)) {
      events.push(event);
      if (event.type === "token") controller.abort();
    }
    expect(events.at(-2)).toMatchObject({ type: "done", reason: "cancelled" });
    const before = performance.now();
    for await (const event of e.generate(request([2], { maxTokens: 100_000 })))
      if (event.type === "token") break;
    await until(() => e.stats().active === 0);
    expect(performance.now() - before).toBeLessThan(1000);
    const iterator = e.generate(request([3], { maxTokens: 100_000 }))[Symbol.asyncIterator]();
    const reads = Array.from({ length: 4 }, () => iterator.next());
    await iterator.return!();
    expect((await reads[3]!).done).toBe(true);
    await until(() => e.stats().active === 0 && e.stats().queued === 0);
  });

  test("one choice is cancelled by its own signal", async () => {
    const e = await open();
    const controllers = [new AbortController(), new AbortController()];
    const signals = controllers.map((c) => c.signal);
    const done: unknown[] = [];
    for await (const event of e.generate(
      request([1, 2], { choices: 2, maxTokens: 20_000 }),
      undefined,
      signals,
    )) {
      if (event.type === "token" && event.choice === 1) controllers[1]!.abort();
      if (event.type === "done") done.push([event.choice, event.reason]);
    }
    expect(done.sort()).toEqual([
      [0, "length"],
      [1, "cancelled"],
    ]);
  });

  test("what is wrong with a request is thrown before the first event", async () => {
    const e = await open();
    const bad: [Partial<GenerateRequest>, string][] = [
      [{ prompt: [] }, "invalid_request"],
      [{ prompt: [97] }, "invalid_request"],
      [{ prompt: [1.5] }, "invalid_request"],
      [{ maxTokens: -1 }, "invalid_request"],
      [{ maxTokens: 2 ** 20 }, "context_overflow"],
      [{ choices: 0 }, "invalid_request"],
      [{ topLogprobs: 21 }, "invalid_request"],
      [{ sampling: { temperature: -1 } }, "invalid_request"],
    ];
    for (const [change, code] of bad) {
      expect((await failure(all(e.generate(request([1], change))))).code as string).toBe(code);
    }
    const aborted = AbortSignal.abort();
    expect((await failure(all(e.generate(request([1]), aborted)))).code).toBe("cancelled");
  });

  test("an infinite ban crosses the link", async () => {
    const e = await open();
    const [plain] = tokens(await all(e.generate(request([9, 9]))));
    const banned = await all(e.generate(request([9, 9], { sampling: { logitBias: [[plain!, -Infinity]] } })));
    expect(tokens(banned)).not.toContain(plain);
  });

  // in a process of its own: in this one the engines of other tests may be at work
  test("without work the engine and the link are asleep", async () => {
    const script = join(import.meta.dir, "testing", "idle.ts");
    const child = Bun.spawn([process.execPath, script], { stdout: "pipe", stderr: "inherit" });
    const milliseconds = Number(await new Response(child.stdout).text());
    expect(await child.exited).toBe(0);
    expect(milliseconds).toBeGreaterThan(0);
    expect(milliseconds).toBeLessThan(75);
  });
});

describe("engine life", () => {
  test("closing waits for running requests and takes no more", async () => {
    const seen: string[] = [];
    const e = await startWorker(entry, options, (p) => seen.push(p.stage));
    expect(seen).toEqual(["double"]);
    const running = all(e.generate(request([1], { maxTokens: 200 })));
    const closed = e.close();
    expect((await failure(all(e.generate(request([2]))))).code).toBe("cancelled");
    expect(tokens(await running).length).toBe(200);
    await closed;
    await e.close();
  });

  test("closing by force cancels them", async () => {
    const e = await startWorker(entry, options);
    const running = all(e.generate(request([1], { maxTokens: 1_000_000 })));
    await until(() => e.stats().active === 1);
    await e.close(true);
    expect((await running).at(-2)).toMatchObject({ type: "done", reason: "cancelled" });
  });

  test("a digest that waits for idle moments comes after loading, and nobody waits for it", async () => {
    const e = await startWorker(entry, { ...options, modelPath: "unhashed" });
    const atLoad = e.info;
    expect(atLoad.model.digest).toBeNull();
    expect(tokens(await all(e.generate(request([1])))).length).toBe(12);
    await until(() => e.info.model.digest !== null);
    expect(e.info.model).toMatchObject({ digest: "sha256:hashed", vocabularySize: 97 });
    expect(atLoad.model.digest).toBeNull();
    await e.close();
  });

  test("a file that changes while it is hashed leaves a note, and serving goes on", async () => {
    const e = await startWorker(entry, { ...options, modelPath: "changing" });
    await until(() => e.info.notes !== undefined);
    expect(e.info.notes?.[0]).toContain("the file has changed");
    expect(e.info.model.digest).toBeNull();
    expect(tokens(await all(e.generate(request([1])))).length).toBe(12);
    await e.close();
  });

  test("a failed load rejects", async () => {
    const error = await failure(startWorker(entry, { ...options, modelPath: "missing" }));
    expect(error.code).toBe("internal");
    expect(error.message).toContain("no such double");
  });

  test("a device that fails ends the engine, with its own words", async () => {
    const e = await startWorker(entry, options);
    const waiting = [
      all(e.generate(request([failingToken]))),
      all(e.generate(request([1], { maxTokens: 100_000 }))),
    ];
    for (const w of waiting) expect((await failure(w)).code).toBe("native_failed");
    expect(e.failure?.message).toContain("misaligned address");
    await e.close();
  });

  test("a worker that dies fails everyone who waits, and later requests", async () => {
    const e = await startWorker(entry, options);
    const waiting = [
      all(e.generate(request([deadlyToken]))),
      all(e.generate(request([1], { maxTokens: 100_000 }))),
    ];
    for (const w of waiting) expect((await failure(w)).code).toBe("internal");
    expect((await failure(all(e.generate(request([1]))))).code).toBe("internal");
    await e.close();
  });
});
