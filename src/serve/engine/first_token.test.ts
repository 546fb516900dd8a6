import { expect, test } from "bun:test";
import type { GenerateEvent } from "../protocol.ts";
import { FirstTokenWatch } from "./first_token.ts";

/** A clock that is set by hand; a look takes 0.1 ms. */
function rig() {
  let now = 0;
  const timers = new Set<{ readonly at: number; readonly act: () => void }>();
  const looks: number[] = [];
  const watch = new FirstTokenWatch(
    () => {
      looks.push(now);
      return false;
    },
    {
      now: () => now,
      after(ms, act) {
        const timer = { at: now + ms, act };
        timers.add(timer);
        return () => timers.delete(timer);
      },
      soon: (act) => timers.add({ at: now + 0.1, act }),
    },
  );
  const pass = (ms: number) => {
    const end = now + ms;
    for (;;) {
      const [next] = [...timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
      if (!next) break;
      timers.delete(next);
      now = next.at;
      next.act();
    }
    now = end;
  };
  return { watch, looks, pass, timers };
}

const prefill = (total: number, processed = 0): GenerateEvent => ({
  ...{ type: "prefill", total, processed, cached: 0 },
});
const token: GenerateEvent = { type: "token", choice: 0, token: 1 };

test("looks from shortly before a token is due, as the last prompt of like length took, until it comes", () => {
  const { watch, looks, pass, timers } = rig();
  watch.notice(1, prefill(300), true);
  pass(20);
  watch.notice(1, token, true);
  expect(looks).toEqual([]);
  watch.notice(2, prefill(400, 100), true);
  watch.notice(2, prefill(400, 400), true);
  pass(20);
  expect(looks[0]).toBeCloseTo(38.5);
  expect(looks.length).toBeGreaterThan(10);
  watch.notice(2, token, true);
  const { length } = looks;
  pass(20);
  expect(looks).toHaveLength(length);
  expect(timers.size).toBe(0);
});

test("gives up after some milliseconds, and what failed or was left is not waited for", () => {
  const { watch, looks, pass } = rig();
  watch.notice(1, prefill(256), true);
  pass(10);
  watch.notice(1, token, true);
  watch.notice(2, prefill(256), true);
  pass(50);
  expect(looks.at(-1)! - looks[0]!).toBeLessThan(5);
  const { length } = looks;
  watch.failed(2);
  watch.notice(3, prefill(256), true);
  watch.notice(3, { type: "done", choice: 0, reason: "cancelled" }, true);
  pass(50);
  expect(looks).toHaveLength(length);
  // of the one that was cancelled nothing was learnt
  watch.notice(4, prefill(256), true);
  pass(9);
  expect(looks.length).toBeGreaterThan(length);
});

test("stays away where other requests run, the length is a new one, or the token comes at once", () => {
  const { watch, looks, pass } = rig();
  for (const [total, ms] of [
    [256, 10],
    [4096, 2],
  ] as const) {
    watch.notice(total, prefill(total), true);
    pass(ms);
    watch.notice(total, token, true);
  }
  for (const [total, alone] of [
    [256, false],
    [1024, true],
    [4096, true],
  ] as const) {
    watch.notice(1, prefill(total), alone);
    pass(30);
    watch.notice(1, token, alone);
  }
  expect(looks).toEqual([]);
});
