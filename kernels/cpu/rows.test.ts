import { expect, test } from "bun:test";
import { floats, levels, opened, randomFloats } from "./library.ts";
import { ints, largestError, run, runReference } from "./twins.ts";

test.each([...levels])("add, softcap and gather_rows on %s", (level) => {
  for (const count of [1, 16, 31, 40000]) {
    const a = randomFloats(count, 1);
    const b = randomFloats(count, 2);
    const [sum, capped, expected] = [floats(count), floats(count), floats(count)];
    opened(level, 2, () => {
      run("add", sum, a, b, count);
      run("softcap", capped, a, count, 3);
    });
    runReference("add", expected, a, b, count);
    expect(sum).toEqual(expected);
    runReference("softcap", expected, a, count, 3);
    expect(largestError(capped, expected)).toBeLessThan(1e-6);
  }
  const extremes = floats(8);
  extremes.set([1e-6, -1e-6, 1e30, -1e30, 1.875, -1.874, 0, Number.NaN]);
  const [capped, expected] = [floats(8), floats(8)];
  opened(level, 1, () => run("softcap", capped, extremes, 8, 3));
  runReference("softcap", expected, extremes, 8, 3);
  for (let i = 0; i < 7; i++)
    expect(Math.abs(capped[i]! - expected[i]!)).toBeLessThanOrEqual(3e-7 * Math.abs(expected[i]!));
  expect(capped[7]).toBeNaN();
  const x = randomFloats(5 * 7, 3);
  const y = floats(3 * 7);
  opened(level, 1, () => run("gather_rows", y, x, ints([4, 0, 4]), 3, 7, 5));
  expect([...y]).toEqual([...x.slice(28), ...x.slice(0, 7), ...x.slice(28)]);
});

test("an index outside the rows is refused", () => {
  const x = floats(8);
  expect(() => opened("plain", 1, () => run("gather_rows", floats(8), x, ints([2]), 1, 4, 2))).toThrow(
    /got 2/,
  );
});
