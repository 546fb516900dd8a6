import { expect, test } from "bun:test";
import { availableMemory, availableOnMac } from "./memory.ts";

const sample = `Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            400000.
Pages inactive:                          300000.
Pages speculative:                         5000.
Pages wired down:                        120000.
Pages purgeable:                           2000.
"Translation faults":                 987654321.
`;

test("a Mac's available memory counts pages that it would give up", () => {
  expect(availableOnMac(sample)).toBe((10_000 + 5_000 + 300_000) * 16_384);
  expect(availableOnMac(sample.replace("Pages inactive", "Pages lazy"))).toBeUndefined();
  expect(availableOnMac("")).toBeUndefined();
});

test("this machine has some", () => {
  expect(availableMemory()).toBeGreaterThan(1e6);
});
