import { expect, test } from "bun:test";
import { linkSync, mkdtempSync, rmSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileRecord } from "./run_root.ts";

test("a large file is read once under all of its names, and again when it has changed", () => {
  const folder = mkdtempSync(join(tmpdir(), "psionic-record-"));
  const [path, other] = [join(folder, "state"), join(folder, "copy")];
  // all holes, so that it takes no room
  writeFileSync(path, "begin");
  truncateSync(path, 2 ** 26 + 1);
  utimesSync(path, 1, 1);
  const first = fileRecord(path);
  linkSync(path, other);
  expect(fileRecord(other)).toBe(first);
  truncateSync(path, 2 ** 26 + 2);
  const longer = fileRecord(other);
  expect(longer.bytes).toBe(first.bytes + 1);
  expect(longer.sha256).not.toBe(first.sha256);
  utimesSync(path, 2, 2);
  expect(fileRecord(path)).not.toBe(longer);
  rmSync(folder, { recursive: true });
});
