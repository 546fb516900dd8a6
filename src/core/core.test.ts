import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sha256 } from "./digest.ts";
import { dtypeFromId, dtypes, rowBytes } from "./dtype.ts";
import { unexpected } from "./error.ts";
import { canonicalJson } from "./json.ts";
import { elementCount } from "./shape.ts";
import { unpack } from "./unpack.ts";

test("messages say where, what was expected, what came and what helps", () => {
  const error = unexpected("invalid_request", "top_p", "a number up to 1", 3, { fix: "Leave it out" });
  expect(error.message).toBe("[top_p] expected a number up to 1, got 3. Leave it out");
  expect(error.code).toBe("invalid_request");
});

test("canonical JSON sorts keys and refuses what JSON lacks", () => {
  expect(canonicalJson({ b: [1, 0.5, null], a: "ü", c: undefined })).toBe('{"a":"ü","b":[1,0.5,null]}');
  expect(() => canonicalJson({ a: Number.NaN })).toThrow(/finite/);
});

test("shapes and rows are counted exactly or refused", () => {
  expect(elementCount([3, 5])).toBe(15);
  expect(() => elementCount([2 ** 40, 2 ** 40])).toThrow(/2\^53/);
  expect(rowBytes("q4_k", 512)).toBe(288);
  expect(new Set(Object.values(dtypes).map((d) => d.id)).size).toBe(Object.keys(dtypes).length);
});

test("no file has the cache's own type", () => {
  expect(dtypeFromId(dtypes.bf16.id)).toBe("bf16");
  expect(dtypeFromId(dtypes.fp8.id)).toBeUndefined();
});

describe("unpack", () => {
  const folder = mkdtempSync(join(tmpdir(), "psionic-unpack-"));
  const before = process.env.PSIONIC_CACHE_DIR;
  const content = new TextEncoder().encode("library");
  const stored = join(folder, "stored");
  const file = { name: "lib.so", path: stored, sha256: sha256(content), compression: "none" } as const;
  beforeAll(() => {
    writeFileSync(stored, content);
    process.env.PSIONIC_CACHE_DIR = join(folder, "cache");
  });
  afterAll(() => {
    if (before === undefined) delete process.env.PSIONIC_CACHE_DIR;
    else process.env.PSIONIC_CACHE_DIR = before;
    rmSync(folder, { recursive: true });
  });

  test("writes once, and again when the copy was changed", () => {
    const path = unpack(file);
    expect(readFileSync(path, "utf8")).toBe("library");
    chmodSync(path, 0o600);
    writeFileSync(path, "LIBRARY");
    expect(readFileSync(unpack(file), "utf8")).toBe("library");
  });

  test("names the folder and the variable when nothing can be written", () => {
    process.env.PSIONIC_CACHE_DIR = join(stored, "inside-a-file");
    expect(() => unpack(file)).toThrow(/PSIONIC_CACHE_DIR/);
    process.env.PSIONIC_CACHE_DIR = join(folder, "cache");
  });

  test("refuses bytes of another digest", () => {
    expect(() => unpack({ ...file, name: "x", sha256: sha256("other") })).toThrow(/sha256/);
  });
});
