/** Training's kernels against their plain loops on every level, and what they refuse. */
import { describe, expect, test } from "bun:test";
import { levels, opened } from "./library.ts";
import { calls } from "./training_calls.ts";
import { largestError, run, runReference } from "./twins.ts";

const titled = calls.map((c, i) => [`${c.name} (${i})`, c] as const);

describe.each([...levels])("against the references on %s", (level) => {
  test.each(titled)("%s", (_title, { name, args, outputs, tolerance = 3e-6 }) => {
    const [got, want] = [args(), args()];
    opened(level, 2, () => run(name, ...got));
    runReference(name, ...want);
    for (let i = 0; i < outputs; i++) {
      const [a, b] = [got[i], want[i]];
      if (a instanceof Float32Array && b instanceof Float32Array)
        expect(largestError(a, b)).toBeLessThan(tolerance);
      else if (a instanceof Float64Array && b instanceof Float64Array)
        for (const [at, v] of b.entries())
          expect(Math.abs(a[at]! - v)).toBeLessThanOrEqual(1e-13 * Math.abs(v));
      else expect(a).toEqual(b!);
    }
  });
});

test.each(titled)(
  "%s refuses null pointers and negative sizes by its name",
  (_title, { name, args, optional = [], sizes }) => {
    const good = args();
    const pointers = good.flatMap((a, i) => (typeof a === "number" || optional.includes(i) ? [] : [i]));
    opened("plain", 1, () => {
      for (const [places, bad] of [
        [pointers, null],
        [sizes, -1],
      ] as const) {
        for (const place of places) {
          const changed = args();
          if (changed[place] === null) continue;
          changed[place] = bad;
          expect(() => run(name, ...changed)).toThrow(`[psi_${name}]`);
        }
      }
    });
  },
);
