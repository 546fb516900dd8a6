import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { nextAddress, rootAddress, type StoreFacts } from "./address.ts";
import { blockFault, blockFile, blockPattern, headerBytes, sealed, statePart } from "./block.ts";

const name = { address: "ab".repeat(32), part: 3 };
const payload = Uint8Array.from({ length: 300 }, (_, i) => (i * 7) % 256);

test("any changed, missing or added byte of a block is found", () => {
  const header = sealed(name, payload);
  expect(header).toHaveLength(headerBytes);
  const whole = Buffer.concat([header, payload]);
  const fault = (bytes: Uint8Array) => blockFault(name, bytes, payload.length, bytes.subarray(headerBytes));
  expect(fault(whole)).toBeUndefined();
  for (let i = 0; i < whole.length; i++) {
    const changed = Buffer.from(whole);
    changed[i]! ^= 1 << (i % 8);
    expect([i, typeof fault(changed)]).toEqual([i, "string"]);
  }
  for (let length = 0; length < whole.length; length += 7)
    expect([length, typeof fault(whole.subarray(0, length))]).toEqual([length, "string"]);
  expect(fault(Buffer.concat([whole, Buffer.of(0)]))).toBeString();
});

test("a block under another's name, or of another size, is not taken", () => {
  const header = sealed(name, payload);
  expect(blockFault({ ...name, part: statePart }, header, 300, payload)).toBe("another part");
  expect(blockFault({ ...name, address: "cd".repeat(32) }, header, 300, payload)).toBe("another block");
  expect(blockFault(name, header, 301, payload)).toContain("300 bytes where 301 belong");
  expect(blockPattern.test(blockFile(name).split("/")[1]!)).toBe(true);
  for (const other of [
    "notes.txt",
    `${name.address}.x`,
    `${name.address}.1.2-3.part`,
    `../${name.address}.1`,
  ])
    expect(blockPattern.test(other)).toBe(false);
});

test("addresses differ with every fact, tenant and token, and with the order of pages", () => {
  const facts: StoreFacts = {
    ...{ model: "sha256:1", library: "1:a", backend: "cpu", device: "avx2", numerics: "reference" },
    ...{ cacheType: "f16", pageSize: 32, layout: [{ window: 0 }] },
  };
  const roots = Object.keys(facts).map((key) => rootAddress({ ...facts, [key]: "other" }, "t"));
  roots.push(rootAddress(facts, "t"), rootAddress(facts, "u"), rootAddress(facts, ""));
  expect(new Set(roots).size).toBe(roots.length);
  const [a, b] = [Int32Array.of(1, 2), Int32Array.of(1, 3)];
  const root = rootAddress(facts, "t");
  const addresses = [
    ...[nextAddress(root, a), nextAddress(root, b), nextAddress(rootAddress(facts, "u"), a)],
    ...[nextAddress(nextAddress(root, a), b), nextAddress(nextAddress(root, b), a)],
  ];
  expect(new Set(addresses).size).toBe(addresses.length);
  // files that are there go by it
  const bytes = new Uint8Array(a.buffer);
  expect(addresses[0]).toBe(createHash("sha256").update(root).update(bytes).digest("hex"));
  for (const address of addresses) expect(address).toMatch(/^[0-9a-f]{64}$/);
});
