import { expect, test } from "bun:test";
import { sizeBytes } from "./size.ts";

test("sizes with and without units", () => {
  const cases: [string, number][] = [
    ["0", 0],
    ["4096", 4096],
    ["1k", 1000],
    ["1KiB", 1024],
    ["1.5G", 1.5e9],
    ["8GiB", 8 * 2 ** 30],
    ["500 MB", 5e8],
    ["2tib", 2 * 2 ** 40],
  ];
  for (const [text, bytes] of cases) expect([text, sizeBytes(text, "--x")]).toEqual([text, bytes]);
  expect(sizeBytes(undefined, "--x")).toBeUndefined();
  for (const text of ["", "-1", "lots", "1GiBs", "1e9", "999999999999999T", "0x10"])
    expect(() => sizeBytes(text, "--x")).toThrow("--x takes a size");
});
