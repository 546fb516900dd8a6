import { afterAll, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../../models/testing/variants.ts";
import { blockFile } from "./block.ts";
import { BlockFiles } from "./files.ts";

const folder = temporaryFolder();
afterAll(() => folder[Symbol.dispose]());

const address = (i: number) => i.toString(16).padStart(64, "0");
const block = (i: number, depth = 0, bytes = 936) => ({
  ...{
    name: { address: address(i), part: 0 },
    payload: new Uint8Array(bytes).fill(i),
    depth,
    replace: false,
  },
});

function store(name: string): { readonly path: string; readonly has: (i: number) => boolean } {
  const path = join(folder.path, name);
  return { path, has: (i) => existsSync(join(path, blockFile({ address: address(i), part: 0 }))) };
}

/** Makes a block as old as so many seconds. */
function age(path: string, i: number, seconds: number): void {
  const time = Date.now() / 1000 - seconds;
  utimesSync(join(path, blockFile({ address: address(i), part: 0 })), time, time);
}

test("the least recently used blocks make room; others' files stay", () => {
  const { path, has } = store("full");
  const files = new BlockFiles(path, 5000);
  mkdirSync(join(path, "00"), { recursive: true });
  writeFileSync(join(path, "00", "notes.txt"), "x".repeat(9000));
  for (let i = 1; i <= 5; i++) {
    expect(files.keep(block(i))).toBe(1000);
    age(path, i, 100 - i);
  }
  expect(files.storedBytes).toBe(5000);
  files.use(join(path, blockFile({ address: address(1), part: 0 })), 0);
  files.keep(block(6));
  expect([1, 2, 3, 4, 5, 6].map(has)).toEqual([true, false, false, true, true, true]);
  expect(files.storedBytes).toBeLessThanOrEqual(5000);
  expect(files.evicted).toBe(2);
  expect(readdirSync(join(path, "00"))).toContain("notes.txt");
});

test("a block that is there is not written again, unless it is broken; one beyond the limit never", () => {
  const { path, has } = store("again");
  const files = new BlockFiles(path, 5000);
  files.keep(block(1));
  expect(files.keep(block(1))).toBe(0);
  writeFileSync(join(path, blockFile({ address: address(1), part: 0 })), "broken");
  expect(files.keep({ ...block(1), replace: true })).toBe(1000);
  expect(statSync(join(path, blockFile({ address: address(1), part: 0 }))).size).toBe(1000);
  expect(files.keep(block(2, 0, 6000))).toBe(0);
  expect([has(1), has(2)]).toEqual([true, false]);
});

test("a look at blocks removes the damaged ones, as far as it goes; from then on what is there is checked", () => {
  const { path, has } = store("looked at");
  const files = new BlockFiles(path, 100_000);
  const at = (i: number) => join(path, blockFile(block(i).name));
  for (const i of [1, 2, 3, 4]) files.keep(block(i));
  for (const i of [2, 4]) {
    const bytes = readFileSync(at(i));
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(at(i), bytes);
  }
  // 9 is not there
  const names = [9, 1, 2, 3, 4].map((i) => block(i).name);
  expect(files.check(names, 2500)).toBe(1);
  expect([1, 2, 3, 4].filter(has)).toEqual([1, 3, 4]);
  expect(files.storedBytes).toBe(3000);
  expect(files.keep(block(1))).toBe(0);
  expect(files.keep(block(4))).toBe(1000);
  expect(files.check(names, 1e9)).toBe(0);
});

test("of a prefix the deepest page is the oldest; what others wrote counts", () => {
  const { path, has } = store("prefix");
  const own = new BlockFiles(path, 3000);
  const others = new BlockFiles(path, 3000);
  for (const i of [1, 2, 3]) own.keep(block(i, i - 1));
  // a block of somebody else is seen when room is needed
  others.keep(block(4));
  expect(has(3)).toBe(false);
  own.keep(block(5));
  const size = [1, 2, 3, 4, 5].filter(has).length * 1000;
  expect(size).toBeLessThanOrEqual(3000);
  expect(has(1) || has(4)).toBe(true);
});

test("what killed writers left behind is removed once it is old", () => {
  const { path } = store("left");
  const files = new BlockFiles(path, 1000);
  files.keep(block(1));
  const aside = (n: number) => join(path, "00", `${address(7)}.0.${n}-1.part`);
  for (const n of [1, 2]) writeFileSync(aside(n), "half");
  const long = Date.now() / 1000 - 3600;
  utimesSync(aside(1), long, long);
  files.keep(block(2));
  expect([existsSync(aside(1)), existsSync(aside(2))]).toEqual([false, true]);
});
