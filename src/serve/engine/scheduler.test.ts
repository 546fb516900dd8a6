import { describe, expect, test } from "bun:test";
import { PsionicError } from "../../core/error.ts";
import type { GenerateEvent, GenerateRequest } from "../protocol.ts";
import { Random } from "./random.ts";
import { AheadDouble } from "./testing/ahead_double.ts";
import { endOf, Rig, request, type Setup, tokens, words } from "./testing/rig.ts";

describe("prefix cache", () => {
  test("a warm answer equals the cold one and says what was cached", () => {
    const rig = new Rig();
    const cold = rig.run(request(words(1, 100)));
    const warm = rig.run(request(words(1, 100)));
    expect(endOf(cold).prefixCache).toBe("none");
    expect(endOf(warm)).toMatchObject({ prefixCache: "hit", cachedTokens: 96, promptTokens: 100 });
    expect(tokens(warm)).toEqual(tokens(cold));
    expect(endOf(rig.run(request(words(2, 100)))).prefixCache).toBe("miss");
  });

  test("expecting a prompt changes nothing", () => {
    const rig = new Rig();
    const prompt = words(1, 100);
    rig.scheduler.expect(Int32Array.from(prompt), "other");
    const cold = rig.run(request(prompt));
    const before = rig.scheduler.stats();
    for (const length of [1, 33, 100]) rig.scheduler.expect(Int32Array.from(prompt.slice(0, length)));
    expect(rig.scheduler.stats()).toEqual(before);
    expect(rig.scheduler.step()).toBe(false);
    const warm = rig.run(request(prompt));
    expect([endOf(cold).prefixCache, endOf(warm).cachedTokens]).toEqual(["none", 96]);
    expect(tokens(warm)).toEqual(tokens(cold));
  });

  test("the next turn resumes at the end of the last one, windows included", () => {
    const rig = new Rig();
    const prompt = words(3, 150);
    const first = rig.run(request(prompt, { maxTokens: 70 }));
    const second = [...prompt, ...tokens(first), ...words(4, 10)];
    const warm = rig.run(request(second));
    // 219 positions were computed, 6 whole pages of 32 before them
    expect(endOf(warm).cachedTokens).toBe(192);
    expect(tokens(warm)).toEqual(tokens(new Rig().run(request(second))));
  });

  test("a turn that drops part of the answer resumes at the end of the prompt", () => {
    const rig = new Rig();
    const prompt = words(5, 200);
    rig.run(request(prompt, { maxTokens: 100 }));
    const second = [...prompt.slice(0, 191), ...words(6, 40)];
    const warm = rig.run(request(second));
    expect(endOf(warm).cachedTokens).toBe(160);
    expect(tokens(warm)).toEqual(tokens(new Rig().run(request(second))));
  });

  test("where prompts part, the third one resumes", () => {
    const rig = new Rig();
    const system = words(7, 128);
    const cached = [8, 9, 10].map(
      (seed) => endOf(rig.run(request([...system, ...words(seed, 150)]))).cachedTokens,
    );
    expect(cached).toEqual([0, 0, 128]);
  });

  test("bypass neither reads nor writes, invalidate drops and records", () => {
    const rig = new Rig();
    const prompt = words(11, 100);
    expect(endOf(rig.run(request(prompt, { prefixCache: "bypass" }))).prefixCache).toBe("bypassed");
    expect(endOf(rig.run(request(prompt))).prefixCache).toBe("none");
    expect(endOf(rig.run(request(prompt, { prefixCache: "bypass" }))).cachedTokens).toBe(0);
    expect(endOf(rig.run(request(prompt, { prefixCache: "invalidate" })))).toMatchObject({
      prefixCache: "rebuilt",
      cachedTokens: 0,
    });
    expect(endOf(rig.run(request(prompt))).prefixCache).toBe("hit");
  });

  test("tenants share nothing", () => {
    const rig = new Rig();
    const prompt = words(12, 100);
    rig.run(request(prompt, { tenant: "a" }));
    expect(endOf(rig.run(request(prompt, { tenant: "b" }))).prefixCache).toBe("none");
    expect(endOf(rig.run(request(prompt))).prefixCache).toBe("none");
    expect(endOf(rig.run(request(prompt, { tenant: "a" }))).prefixCache).toBe("hit");
  });

  test("old entries make way", () => {
    const rig = new Rig({ slots: 1, context: 256, pages: 8, slidingPages: 12 });
    for (let seed = 20; seed < 40; seed++) rig.run(request(words(seed, 150)));
    expect(endOf(rig.run(request(words(39, 150)))).cachedTokens).toBe(128);
    expect(endOf(rig.run(request(words(20, 150)))).cachedTokens).toBe(0);
  });
});

describe("endings", () => {
  test("prompt and output beyond the context are refused with both numbers", () => {
    const rig = new Rig({ context: 256 });
    const thrown = [words(1, 256), words(1, 250)].map((prompt): PsionicError | undefined => {
      try {
        rig.submit(request(prompt));
        return undefined;
      } catch (error) {
        return error as PsionicError;
      }
    });
    expect(thrown.map((e) => e?.code)).toEqual(["context_overflow", "context_overflow"]);
    expect(thrown[0]?.details).toMatchObject({ promptTokens: 256, contextLength: 256 });
    expect(thrown[1]?.message).toContain("250");
    expect(thrown[1]?.message).toContain("256");
  });

  test("without maxTokens the context ends generation", () => {
    const { maxTokens: _, ...open } = request(words(1, 200));
    const events = new Rig({ context: 256 }).run(open);
    expect(tokens(events).length).toBe(56);
    expect(events.at(-2)).toMatchObject({ type: "done", reason: "length", contextFull: true });
  });

  test("a stop token is named and not delivered", () => {
    const plain = tokens(new Rig().run(request(words(1, 20))));
    const stop = plain[7]!;
    const events = new Rig().run(request(words(1, 20), { stopTokens: [stop] }));
    expect(tokens(events)).toEqual(plain.slice(0, plain.indexOf(stop)));
    expect(events.at(-2)).toMatchObject({ type: "done", reason: "stop", stopToken: stop });
  });

  test("maxTokens 0 computes the prompt only", () => {
    const events = new Rig().run(request(words(1, 20), { maxTokens: 0 }));
    expect(events.map((e) => e.type)).toEqual(["prefill", "prefill", "done", "end"]);
  });

  test("a failed step fails its requests and leaves the engine usable", () => {
    const rig = new Rig();
    const good = tokens(rig.run(request(words(1, 90))));
    const id = rig.submit(request(words(2, 90)));
    rig.double.failNext = true;
    rig.drain();
    expect(rig.errors.get(id)?.code).toBe("internal");
    expect(tokens(rig.run(request(words(1, 90))))).toEqual(good);
  });

  test("cancelling frees the slot before the next step and keeps what was computed", () => {
    const rig = new Rig({ slots: 1 });
    const id = rig.submit(request(words(1, 400), { maxTokens: 100 }));
    const waiting = rig.submit(request(words(2, 10)));
    rig.scheduler.step();
    rig.scheduler.cancel(waiting);
    expect(rig.events.get(waiting)!.map((e) => e.type)).toEqual(["done", "end"]);
    rig.scheduler.cancel(id);
    expect(rig.scheduler.stats()).toMatchObject({ active: 0, queued: 0, pagesUsed: 0, cancelled: 2 });
    expect(endOf(rig.run(request(words(1, 400)))).cachedTokens).toBe(384);
  });
});

describe("log-probabilities", () => {
  test("are of the model's own logits and sorted", () => {
    const events = new Rig().run(
      request(words(1, 20), { topLogprobs: 20, sampling: { logitBias: [[3, 100]] }, maxTokens: 3 }),
    );
    for (const e of events) {
      if (e.type !== "token") continue;
      expect(e.token).toBe(3);
      expect(e.logprob!).toBeLessThan(-0.5);
      const listed = e.top!.map((t) => t.logprob);
      expect(listed).toEqual([...listed].sort((a, b) => b - a));
      expect(listed.length).toBe(20);
    }
  });

  test("of the prompt: one entry per token after the first, whatever the chunks", () => {
    const ask = request(words(1, 300), { promptLogprobs: true, topLogprobs: 2, maxTokens: 1 });
    const rig = new Rig();
    const cold = rig.run(ask);
    const warm = rig.run(ask);
    const listed = cold.find((e) => e.type === "promptLogprobs")!;
    expect(listed.tokens.map((t) => t.token)).toEqual([...ask.prompt.slice(1)]);
    expect(warm.find((e) => e.type === "promptLogprobs")).toEqual(listed);
  });
});

describe("choices", () => {
  test("share the prompt, draw from different streams, repeat with the seed", () => {
    const ask = request(words(1, 96), {
      choices: 6,
      sampling: { temperature: 1, topK: 0, topP: 1, seed: 5 },
    });
    const rig = new Rig({ slots: 3 });
    const first = rig.run(ask);
    const texts = [0, 1, 2, 3, 4, 5].map((c) => tokens(first, c).join());
    expect(new Set(texts).size).toBe(6);
    expect(first.filter((e) => e.type === "done").length).toBe(6);
    // 96 prompt tokens once, then the last page again for each other choice
    expect(rig.scheduler.stats().promptTokens).toBe(96);
    const again = new Rig({ slots: 8 }).run({ ...ask, prefixCache: "bypass" });
    expect([0, 1, 2, 3, 4, 5].map((c) => tokens(again, c).join())).toEqual(texts);
  });

  test("one choice can be cancelled alone", () => {
    const rig = new Rig();
    const id = rig.submit(request(words(1, 40), { choices: 3 }));
    rig.scheduler.step();
    rig.scheduler.cancel(id, 0);
    rig.drain();
    const events = rig.events.get(id)!;
    expect(
      events.filter((e) => e.type === "done").map((e) => e.type === "done" && [e.choice, e.reason]),
    ).toEqual([
      [0, "cancelled"],
      [1, "length"],
      [2, "length"],
    ]);
  });
});

describe("sharing the machine", () => {
  test("a running stream gets a token every step while a long prompt is read", () => {
    const rig = new Rig({ context: 4096, slots: 2 });
    const id = rig.submit(request(words(1, 10), { maxTokens: 50 }));
    rig.scheduler.step();
    rig.submit(request(words(2, 1500), { maxTokens: 1 }));
    for (let i = 0; i < 5; i++) {
      const before = tokens(rig.events.get(id)!).length;
      rig.scheduler.step();
      expect(tokens(rig.events.get(id)!).length).toBe(before + 1);
      expect(rig.double.largestBatch).toBeLessThanOrEqual(257);
    }
    rig.drain();
  });

  test("a client with many requests does not hold up another", () => {
    const rig = new Rig({ slots: 1 });
    const crowd = Array.from({ length: 20 }, (_, i) =>
      rig.submit(request(words(i, 10), { client: "a", maxTokens: 2 })),
    );
    const single = rig.submit(request(words(50, 10), { client: "b", maxTokens: 2 }));
    const finished: number[] = [];
    while (rig.scheduler.step()) {
      for (const [id, events] of rig.events) {
        if (events.at(-1)?.type === "end" && !finished.includes(id)) finished.push(id);
      }
    }
    expect(finished.indexOf(single)).toBeLessThanOrEqual(1);
    expect(finished.filter((id) => id !== single)).toEqual(crowd);
  });

  test("a full queue refuses", () => {
    const rig = new Rig({ slots: 1, maxQueue: 2 });
    rig.submit(request(words(1, 10)));
    rig.scheduler.step();
    rig.submit(request(words(2, 10)));
    rig.submit(request(words(3, 10)));
    expect(() => rig.submit(request(words(4, 10)))).toThrow(PsionicError);
    rig.drain();
  });

  test("too few pages for all slots: sequences are set back and nothing changes", () => {
    const asks = Array.from({ length: 6 }, (_, i) => request(words(i, 120 + i), { maxTokens: 100 }));
    const rig = new Rig({ slots: 4, context: 256, pages: 14 });
    const ids = asks.map((ask) => rig.submit(ask));
    rig.drain();
    ids.forEach((id, i) => {
      expect(tokens(rig.events.get(id)!)).toEqual(tokens(new Rig().run(asks[i]!)));
    });
  });
});

describe("recurrent states", () => {
  const stateSlots = 12;

  test("a repeated prompt resumes at the state before its last tokens, and answers alike", () => {
    const rig = new Rig({ stateSlots });
    const cold = rig.run(request(words(1, 100)));
    const warm = rig.run(request(words(1, 100)));
    // eight tokens at the end of a prompt are taken to open the answer: the state is after two pages of 92
    expect(endOf(warm)).toMatchObject({ prefixCache: "hit", cachedTokens: 64, promptTokens: 100 });
    expect(tokens(warm)).toEqual(tokens(cold));
  });

  test("a short prompt is read in one step, and the end of its answer kept", () => {
    const rig = new Rig({ stateSlots });
    const prompt = words(2, 70);
    const first = rig.run(request(prompt, { maxTokens: 60 }));
    // one step for the prompt, one for every token but the first
    expect(rig.double.steps).toBe(60);
    const second = [...prompt, ...tokens(first), ...words(4, 20)];
    const warm = rig.run(request(second));
    expect(endOf(warm).cachedTokens).toBe(128);
    expect(tokens(warm)).toEqual(tokens(new Rig({ stateSlots }).run(request(second))));
  });

  test("the next turn resumes at the last page of the answer", () => {
    const rig = new Rig({ stateSlots });
    const prompt = words(3, 150);
    const first = rig.run(request(prompt, { maxTokens: 70 }));
    const second = [...prompt, ...tokens(first), ...words(4, 10)];
    const warm = rig.run(request(second));
    expect(endOf(warm).cachedTokens).toBe(192);
    expect(tokens(warm)).toEqual(tokens(new Rig({ stateSlots }).run(request(second))));
  });

  test("a turn that renders the answer in another way resumes before it", () => {
    const rig = new Rig({ stateSlots });
    const prompt = words(5, 200);
    rig.run(request(prompt, { maxTokens: 100 }));
    const second = [...prompt.slice(0, 196), ...words(6, 40)];
    const warm = rig.run(request(second));
    expect(endOf(warm).cachedTokens).toBe(192);
    expect(tokens(warm)).toEqual(tokens(new Rig({ stateSlots }).run(request(second))));
  });

  test("prompts that part early share a state from the third on", () => {
    const rig = new Rig({ stateSlots });
    const shared = words(7, 130);
    const cached = [8, 9, 10].map((seed) => {
      const ask = request([...shared, ...words(seed, 60)]);
      const events = rig.run(ask);
      expect(tokens(events)).toEqual(tokens(new Rig({ stateSlots }).run(ask)));
      return endOf(events).cachedTokens;
    });
    expect(cached).toEqual([0, 0, 128]);
  });

  test("without a slot for copies nothing is cached, and nothing fails", () => {
    const rig = new Rig({ slots: 2, stateSlots: 2 });
    const asks = [11, 12, 13].map((seed) => request(words(seed, 100), { maxTokens: 40 }));
    const ids = asks.map((ask) => rig.submit(ask));
    rig.drain();
    ids.forEach((id, i) => {
      expect(tokens(rig.events.get(id)!)).toEqual(tokens(new Rig({ stateSlots }).run(asks[i]!)));
    });
  });

  test("a cached state in the only slot that is left is taken over there", () => {
    const rig = new Rig({ slots: 2, stateSlots: 3 });
    const known = request(words(14, 100), { maxTokens: 1 });
    rig.run(known);
    rig.submit(request(words(15, 30), { maxTokens: 100 }));
    // it keeps a copy at its first page boundary
    while (rig.double.copies < 2) rig.scheduler.step();
    const events = rig.run(known);
    expect(endOf(events).cachedTokens).toBe(64);
    expect(tokens(events)).toEqual(tokens(new Rig({ stateSlots }).run(known)));
    expect(rig.errors.size).toBe(0);
  });

  test("the state used least recently goes first, and pages that go take theirs along", () => {
    const rig = new Rig({ slots: 1, stateSlots: 4, pages: 16 });
    const ask = (seed: number) => request(words(seed, 100), { maxTokens: 1 });
    for (const seed of [20, 21, 22]) rig.run(ask(seed));
    expect(endOf(rig.run(ask(20))).cachedTokens).toBe(64);
    // three pages each: with a fifth prompt pages of 21 are taken
    for (const seed of [23, 24, 25]) rig.run(ask(seed));
    expect(endOf(rig.run(ask(21))).cachedTokens).toBe(0);
  });

  test("a bypassing request copies no state", () => {
    const rig = new Rig({ stateSlots });
    rig.run(request(words(30, 100), { prefixCache: "bypass" }));
    expect(rig.double.copies).toBe(0);
  });
});

/** Random arrivals, lengths, cancellations: each answer equals the one given alone, and every page comes back. */
function soak(seed: number, setup: Setup): void {
  const random = new Random(seed, 0);
  const whole = (n: number) => Math.floor(random.next() * n);
  // what leaves the course as it is
  const more = new Random(seed, 1);
  const rig = new Rig(setup);
  const asked = new Map<number, GenerateRequest>();
  const cancelled = new Set<number>();
  for (let i = 0; i < 60; i++) {
    const prompt = [...words(whole(3), whole(120)), ...words(100 + whole(20), 1 + whole(90))];
    const ask = request(prompt, {
      maxTokens: whole(40),
      choices: 1 + (whole(5) === 0 ? 2 : 0),
      client: `c${whole(3)}`,
      tenant: whole(4) === 0 ? "t" : "",
      sampling:
        whole(2) === 0 ? {} : { temperature: 0.9, seed: whole(100), repeatPenalty: 1 + whole(2) / 10 },
      stopTokens: whole(3) === 0 ? [1, 2] : [],
      prefixCache: (["auto", "auto", "auto", "bypass", "invalidate"] as const)[whole(5)]!,
      ...(more.next() < 0.3 && { topLogprobs: Math.floor(more.next() * 4) }),
    });
    asked.set(rig.submit(ask), ask);
    for (let n = whole(6); n > 0; n--) rig.scheduler.step();
    if (whole(6) === 0) {
      const id = 1 + whole(i + 1);
      if (rig.events.get(id)!.at(-1)?.type !== "end") cancelled.add(id);
      rig.scheduler.cancel(id);
    }
  }
  rig.drain();
  expect(rig.errors.size).toBe(0);
  if (rig.double instanceof AheadDouble) expect(rig.double.followed).toBeGreaterThan(15);
  for (const [id, ask] of asked) {
    const { window, slidingOnly, stateSlots } = setup;
    const alone = new Rig({ window, slidingOnly, stateSlots: stateSlots && 12 }).run({
      ...ask,
      prefixCache: "bypass",
    });
    for (let choice = 0; choice < ask.choices; choice++) {
      const got = generated(rig.events.get(id)!, choice);
      const want = generated(alone, choice);
      expect(got).toEqual(cancelled.has(id) ? want.slice(0, got.length) : want);
    }
    const ends = rig.events.get(id)!.filter((e) => e.type === "end");
    expect(ends.length).toBe(1);
    if (!cancelled.has(id)) expect(ends[0]!.completionTokens).toBe(endOf(alone).completionTokens);
  }
}

/** Tokens of a choice with their log-probabilities. */
function generated(events: readonly GenerateEvent[], choice: number) {
  return events.filter((e) => e.type === "token" && e.choice === choice);
}

describe.each([
  ["step by step", false],
  ["steps ahead", true],
])("soak, %s", (_name, ahead) => {
  for (let seed = 1; seed <= 4; seed++) test(`ample pages, seed ${seed}`, () => soak(seed, { ahead }));
  for (let seed = 5; seed <= 8; seed++) {
    test(`scarce pages, seed ${seed}`, () =>
      soak(seed, { ahead, slots: 6, context: 256, pages: 12, slidingPages: 40 }));
  }
  // in its course the only sequence with a part of the step is set back
  test("scarce pages, seed 323", () =>
    soak(323, { ahead, slots: 6, context: 256, pages: 12, slidingPages: 40 }));
  test("a window of a page and a token", () => soak(9, { ahead, window: 33 }));
  for (const [stateSlots, seed] of [
    [4, 11],
    [5, 12],
    [12, 13],
    [40, 14],
  ] as const) {
    test(`states in ${stateSlots} slots, seed ${seed}`, () => soak(seed, { ahead, stateSlots }));
    test(`states in ${stateSlots + 2} slots, scarce pages, seed ${seed}`, () =>
      soak(seed, { ahead, stateSlots: stateSlots + 2, slots: 6, context: 256, pages: 12 }));
  }
  test("sliding layers only", () => soak(10, { ahead, slidingOnly: true, window: 65, slidingPages: 60 }));
});
