/** Steps that the device is given before the last one was read: what anybody gets is what it gets step by step. */
import { describe, expect, test } from "bun:test";
import { PsionicError } from "../../core/error.ts";
import { compileGrammar, packTokens, parseGbnf } from "../grammar/index.ts";
import type { GenerateEvent, GenerateRequest } from "../protocol.ts";
import type { AheadDouble } from "./testing/ahead_double.ts";
import { endOf, Rig, request, type Setup, tokens, vocabularySize, words } from "./testing/rig.ts";

function pair(setup: Setup = {}): [plain: Rig, ahead: Rig] {
  return [new Rig(setup), new Rig({ ...setup, ahead: true })];
}

const followed = (rig: Rig): number => (rig.double as AheadDouble).followed;

/** Events without durations. */
function facts(events: readonly GenerateEvent[]): unknown[] {
  return events.map((event) =>
    event.type === "end" ? { ...event, queueMs: 0, prefillMs: 0, decodeMs: 0 } : event,
  );
}

/** What a log-probability is counts to the last bit but one: the double sums like the reader. */
function compare(setup: Setup, requests: readonly GenerateRequest[]): [Rig, Rig] {
  const [plain, ahead] = pair(setup);
  for (const ask of requests) expect(facts(ahead.run(ask))).toEqual(facts(plain.run(ask)));
  return [plain, ahead];
}

describe("the same events", () => {
  test("greedy, drawn, biased and with log-probabilities", () => {
    const [, ahead] = compare({}, [
      request(words(1, 40), { topLogprobs: 3 }),
      request(words(2, 40), { topLogprobs: 0, sampling: { temperature: 1.5, topK: 0, topP: 1, seed: 5 } }),
      request(words(3, 40), { topLogprobs: 2, sampling: { temperature: 3, topK: 9, seed: 6 } }),
      request(words(4, 40), { sampling: { logitBias: [[3, 8]] } }),
      request(words(5, 40), { sampling: { temperature: 1, minP: 0.1, topK: 0, seed: 9 }, choices: 3 }),
      request(words(6, 40), { maxTokens: 1 }),
      request(words(7, 40), { maxTokens: 0 }),
    ]);
    expect(followed(ahead)).toBeGreaterThan(80);
    expect((ahead.double as AheadDouble).unread).toBe(0);
  });

  test("an answer that ends by a stop token, whose step is under way already", () => {
    const free = tokens(new Rig().run(request(words(8, 50), { maxTokens: 60 })));
    const stop = free[25]!;
    const first = free.indexOf(stop);
    const ask = request(words(8, 50), { maxTokens: 60, stopTokens: [stop] });
    const [plain, ahead] = compare({}, [ask]);
    expect(followed(ahead)).toBeGreaterThan(first / 2);
    expect(ahead.scheduler.stats().completionTokens).toBe(plain.scheduler.stats().completionTokens);
    expect(ahead.scheduler.stats().completionTokens).toBe(first + 1);
    // what stayed cached is right: the next turn goes on behind the answer
    const next = request([...words(8, 50), ...free.slice(0, first), ...words(9, 70)], { maxTokens: 30 });
    const events = ahead.run(next);
    expect(facts(events)).toEqual(facts(plain.run(next)));
    expect(tokens(events)).toEqual(tokens(new Rig().run(next)));
    expect(endOf(events).cachedTokens).toBeGreaterThan(0);
  });

  test.each([
    ["windows", {}],
    ["recurrent states", { stateSlots: 12 }],
  ] as const)("turns of a chat over %s", (_name, setup) => {
    const [plain, ahead] = pair(setup);
    let said = words(10, 90);
    for (let turn = 0; turn < 5; turn++) {
      const ask = request(said, { maxTokens: 70 + turn });
      const events = ahead.run(ask);
      expect(facts(events)).toEqual(facts(plain.run(ask)));
      expect(tokens(events)).toEqual(tokens(new Rig(setup).run(ask)));
      if (turn > 0) expect(endOf(events).cachedTokens).toBeGreaterThan(64);
      said = [...said, ...tokens(events), ...words(20 + turn, 5)];
    }
    expect(followed(ahead)).toBeGreaterThan(200);
  });
});

describe("what waits for its token", () => {
  const alone = (more: Partial<GenerateRequest>): number => {
    const [, ahead] = compare({}, [request(words(30, 40), more)]);
    return followed(ahead);
  };

  test("penalties over what was generated, and settings that the device does not know", () => {
    expect(alone({ sampling: { repeatPenalty: 1.2 } })).toBe(0);
    expect(alone({ sampling: { temperature: 1, dryMultiplier: 0.8, seed: 1 } })).toBe(0);
    expect(alone({ sampling: { temperature: 1, typicalP: 0.7, seed: 1 } })).toBe(0);
    expect(alone({ sampling: { temperature: 1, xtcProbability: 0.5, seed: 1 } })).toBe(0);
    expect(alone({ sampling: { temperature: 1, seed: 1 } })).toBeGreaterThan(10);
  });

  test("a grammar, alone and beside requests without", () => {
    const [plain, ahead] = pair({});
    const source = "root ::= [!-@]{12}";
    const results = [plain, ahead].map((rig) => {
      rig.scheduler.grammars.learn(
        packTokens(
          {
            vocabularySize,
            tokenBytes: (id) => Uint8Array.of(0x21 + id),
            isControl: (id) => id >= 58,
          },
          new Set(),
        ),
      );
      rig.scheduler.grammars.add(source, compileGrammar(parseGbnf(source)));
      const constraint = { digest: source, consumed: [], stops: [60] };
      const ids = [
        { sampling: {} },
        { sampling: { temperature: 2, seed: 3 }, topLogprobs: 1 },
        { sampling: { temperature: 2, topK: 0, topP: 1, seed: 3 } },
      ].map((more) => {
        const id = rig.submit(request(words(31, 40), { ...more, stopTokens: [60] }), constraint);
        return id;
      });
      rig.drain();
      expect(rig.errors.size).toBe(0);
      return ids.map((id) => facts(rig.events.get(id)!));
    });
    expect(results[1]).toEqual(results[0]!);
    expect(followed(ahead)).toBe(0);
    for (const events of results[1] as GenerateEvent[][]) {
      expect(tokens(events)).toHaveLength(12);
      expect(tokens(events).every((token) => token < 32)).toBe(true);
    }
  });
});

describe("beside steps under way", () => {
  test("who waits for a free slot enters at the next step", () => {
    const [plain, ahead] = pair({ slots: 2 });
    const stepsTo = (rig: Rig) => {
      rig.submit(request(words(40, 30), { maxTokens: 100 }));
      for (let i = 0; i < 10; i++) rig.scheduler.step();
      const id = rig.submit(request(words(41, 20), { maxTokens: 5 }));
      let steps = 0;
      while (tokens(rig.events.get(id)!).length === 0) {
        rig.scheduler.step();
        steps += 1;
      }
      rig.drain();
      return steps;
    };
    expect(stepsTo(ahead)).toBeLessThanOrEqual(stepsTo(plain) + 1);
  });

  test("other work is done once a step, the first time before the step behind is started", () => {
    const ahead = new Rig({ ahead: true });
    ahead.submit(request(words(48, 30), { maxTokens: 8 }));
    const followedBefore: number[] = [];
    let steps = 0;
    while (ahead.scheduler.step(() => followedBefore.push(followed(ahead)))) steps += 1;
    // the prompt, the first step, then each behind the start of the next; the last has none
    expect(followedBefore).toEqual([0, 0, 2, 3, 4, 5, 6, 6]);
    expect(steps).toBe(8);
  });

  test("a cancelled request gives nothing more, and its slot and pages serve others", () => {
    const ahead = new Rig({ ahead: true, slots: 1, pages: 16 });
    const id = ahead.submit(request(words(42, 30), { maxTokens: 200 }));
    for (let i = 0; i < 20; i++) ahead.scheduler.step();
    const before = tokens(ahead.events.get(id)!).length;
    ahead.scheduler.cancel(id);
    const other = request(words(43, 100), { maxTokens: 60 });
    expect(tokens(ahead.run(other))).toEqual(tokens(new Rig().run(other)));
    expect(tokens(ahead.events.get(id)!)).toHaveLength(before);
    expect(endOf(ahead.events.get(id)!).completionTokens).toBe(before);
  });

  test("a step that fails ends its requests, and the scheduler serves on", () => {
    const ahead = new Rig({ ahead: true });
    const ids = [44, 45].map((seed) => ahead.submit(request(words(seed, 30), { maxTokens: 100 })));
    for (let i = 0; i < 10; i++) ahead.scheduler.step();
    (ahead.double as AheadDouble).failNextFollowing = true;
    ahead.drain();
    for (const id of ids) {
      expect(ahead.errors.get(id)?.code).toBe("internal");
      expect(ahead.events.get(id)!.some(({ type }) => type === "end")).toBe(false);
    }
    const again = request(words(44, 30), { maxTokens: 40 });
    expect(tokens(ahead.run(again))).toEqual(tokens(new Rig().run(again)));
  });

  test("a kernel that failed meanwhile ends the engine with its words", () => {
    const ahead = new Rig({ ahead: true });
    const id = ahead.submit(request(words(47, 30), { maxTokens: 100 }));
    for (let i = 0; i < 10; i++) ahead.scheduler.step();
    const text = "[psi_fetched] expected CUDA to go on, got: misaligned address";
    (ahead.double as AheadDouble).failure = new PsionicError("native_failed", text);
    expect(() => ahead.scheduler.step()).toThrow(text);
    expect(ahead.events.get(id)!.some(({ type }) => type === "end")).toBe(false);
  });

  test("no step is left to read when all have ended, and a late one is not waited for", () => {
    const ahead = new Rig({ ahead: true });
    const stop = tokens(new Rig().run(request(words(46, 30))))[4]!;
    ahead.run(request(words(46, 30), { stopTokens: [stop] }));
    const steps = ahead.double.steps;
    expect(ahead.scheduler.step()).toBe(false);
    expect(ahead.double.steps).toBe(steps);
  });
});
