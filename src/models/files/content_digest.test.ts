import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sha256 } from "../../core/digest.ts";
import { ContentDigest, contentDigest } from "./content_digest.ts";

const folder = mkdtempSync(join(tmpdir(), "digest-"));
afterAll(() => rmSync(folder, { recursive: true }));

test("one file: SHA-256 of its bytes; several: of their names and digests in any order", () => {
  const files = ["b", "a"].map((name) => {
    const path = join(folder, name);
    writeFileSync(path, `content of ${name}`);
    return { path, bytes: 12 };
  });
  const [b, a] = files.map(({ path }) => sha256(`content of ${path.at(-1)}`));
  expect(contentDigest(files.slice(0, 1))).toBe(`sha256:${b}`);
  const both = `sha256:${sha256([`${b}  b\n`, `${a}  a\n`].sort().join(""))}`;
  expect(contentDigest(files)).toBe(both);
  expect(contentDigest(files.toReversed())).toBe(both);
  expect(existsSync(join(folder, "a.sha256.json"))).toBe(false);
});

test("a large file is hashed once, and again when it changes", () => {
  const path = join(folder, "large");
  writeFileSync(path, "");
  truncateSync(path, 2 ** 26);
  const seen: number[] = [];
  const files = [{ path, bytes: 2 ** 26 }];
  const first = contentDigest(files, (done) => seen.push(done));
  expect(seen.at(-1)).toBe(2 ** 26);
  expect(contentDigest(files, () => seen.push(-1))).toBe(first);
  expect(seen).not.toContain(-1);
  utimesSync(path, 1, 1);
  expect(contentDigest(files, () => seen.push(-1))).toBe(first);
  expect(seen).toContain(-1);
  writeFileSync(`${path}.sha256.json`, "not a record");
  expect(contentDigest(files)).toBe(first);
});

test("a large file is hashed piece by piece; its record serves at once", () => {
  const path = join(folder, "pieces");
  writeFileSync(path, "");
  truncateSync(path, 2 ** 26 + 5);
  const files = [{ path, bytes: 2 ** 26 + 5 }];
  using digest = new ContentDigest(files);
  const left: number[] = [];
  while (digest.value === undefined) {
    left.push(digest.remainingBytes);
    digest.advance();
  }
  expect(left.slice(0, 2)).toEqual([2 ** 26 + 5, 2 ** 26 + 5 - 2 ** 20]);
  expect(left.length).toBe(65);
  expect(digest.remainingBytes).toBe(0);
  using again = new ContentDigest(files);
  expect(again.value).toBe(digest.value);
  expect(again.value).toBe(`sha256:${sha256(new Uint8Array(2 ** 26 + 5))}`);
});

test("a file that changes while it is hashed has no digest", () => {
  const path = join(folder, "changing");
  writeFileSync(path, "");
  truncateSync(path, 2 ** 26);
  using digest = new ContentDigest([{ path, bytes: 2 ** 26 }]);
  digest.advance();
  utimesSync(path, 1, 1);
  expect(() => {
    while (digest.value === undefined) digest.advance();
  }).toThrow("a change during hashing");
});
