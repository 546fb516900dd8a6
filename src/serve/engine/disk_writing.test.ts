import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BlockName, blockFault, blockFile, headerBytes, statePart } from "../prefix_store/block.ts";
import { makeStore } from "../prefix_store/files.ts";
import { BlockWriter } from "./disk_writing.ts";

const folder = mkdtempSync(join(tmpdir(), "psionic-writing-"));
makeStore(folder);
const writer = new BlockWriter(folder, 2 ** 30);
afterAll(() => {
  writer.close();
  rmSync(folder, { recursive: true, force: true });
});

const name = (digit: string): BlockName => ({ address: digit.repeat(64), part: statePart });
const bytes = (from: number, count: number) => Uint8Array.from({ length: count }, (_, i) => (from + i) * 7);
const send = (to: BlockName, at: number, count: number, total: number) =>
  writer.keepPiece(to, bytes(at, count), { at, total, depth: 3, replace: false });

test("a block that comes in pieces is that of the whole; one that is left unfinished leaves nothing", () => {
  const [left, whole] = [name("a"), name("b")];
  send(left, 0, 400, 1000);
  for (const at of [0, 400, 800]) send(whole, at, Math.min(400, 1000 - at), 1000);
  expect(writer.counts.waitForWrites(10_000)).toBe(true);
  const file = readFileSync(join(folder, blockFile(whole)));
  const payload = file.subarray(headerBytes);
  expect(payload.equals(bytes(0, 1000))).toBe(true);
  expect(blockFault(whole, file, 1000, payload)).toBeUndefined();
  expect(existsSync(join(folder, blockFile(left)))).toBe(false);
  expect([writer.counts.get("pendingBytes"), writer.counts.get("failed")]).toEqual([0, 0]);
});

test("more of a block that did not begin is a failure that is counted", () => {
  send(name("c"), 400, 600, 1000);
  expect(writer.counts.waitForWrites(10_000)).toBe(true);
  expect(writer.counts.get("failed")).toBe(1);
  expect(writer.counts.failure).toContain("[writer] expected more of");
});
