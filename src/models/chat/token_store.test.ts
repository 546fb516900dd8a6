import { expect, test } from "bun:test";
import { TokenStore } from "./token_store.ts";

const text = (seed: number, units = 200): string => `${seed} `.padEnd(units, "word ");
const entryBytes = (units: number, ids: number): number => 128 + 2 * units + 4 * ids;

test("a text is found whole or not at all", () => {
  const store = new TokenStore();
  store.add(text(1), [9, 9, 1, 2, 3], 2);
  expect([...store.find(text(1))!]).toEqual([1, 2, 3]);
  expect(store.find(text(1, 199))).toBeUndefined();
  expect(store.find(`${text(1)} `)).toBeUndefined();
  expect(store.find(text(2))).toBeUndefined();
});

test("short texts are not kept", () => {
  const store = new TokenStore();
  store.add(text(1, 127), [1], 0);
  expect(store.find(text(1, 127))).toBeUndefined();
  expect(store.sizeBytes).toBe(0);
});

test("what was used longest ago leaves when the bytes are used up", () => {
  const bytes = entryBytes(200, 3);
  const store = new TokenStore(4 * bytes + 3);
  for (let i = 0; i < 4; i++) store.add(text(i), [i, i, i], 0);
  expect(store.sizeBytes).toBe(4 * bytes);
  store.find(text(0));
  store.add(text(4), [4, 4, 4], 0);
  expect(store.sizeBytes).toBe(4 * bytes);
  expect([0, 1, 2, 3, 4].map((i) => store.find(text(i)) !== undefined)).toEqual([
    true,
    false,
    true,
    true,
    true,
  ]);
});

test("a text that takes more than a quarter is not kept, one that is there is not counted twice", () => {
  const bytes = entryBytes(200, 3);
  const store = new TokenStore(4 * bytes);
  store.add(text(1), [1, 1, 1, 1], 0);
  expect(store.sizeBytes).toBe(0);
  store.add(text(1), [1, 1, 1], 0);
  store.add(text(1), [1, 1, 1], 0);
  expect(store.sizeBytes).toBe(bytes);
});
