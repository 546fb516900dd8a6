import { expect, test } from "bun:test";
import { type FuzzResult, fuzzGguf, fuzzSafetensors } from "./fuzz.ts";

/** The soak runs a million. */
const limit = { count: 100_000, durationMs: 2000 };

/** Mutants must reach the checks behind magic and counts, and some must be good enough to be used. */
function expectDepth({ cases, accepted, refused, pastCounts }: FuzzResult): void {
  expect(cases).toBeGreaterThanOrEqual(256);
  expect(pastCounts).toBeGreaterThan(cases / 3);
  expect(accepted).toBeGreaterThan(cases / 50);
  expect(refused).toBeGreaterThan(cases / 5);
}

test("damaged GGUF headers end in typed errors", () => {
  expectDepth(fuzzGguf(1, limit));
});

test("damaged safetensors headers and configurations end in typed errors", () => {
  expectDepth(fuzzSafetensors(1, limit));
});

test("a case repeats from its seed", () => {
  const count = (seed: number) => fuzzGguf(seed, { count: 1 });
  for (const seed of [3, 4, 5]) expect(count(seed)).toEqual(count(seed));
  const first = [1, 2, 3, 4].map((s) => count(s).accepted).reduce((a, b) => a + b);
  expect(fuzzGguf(1, { count: 4 }).accepted).toBe(first);
});
