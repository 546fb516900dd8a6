import { refused } from "./refusal.ts";

/** Deeper values are refused before anything walks through them. */
const mostLevels = 512;
const mostValues = 2_000_000;

/** Throws `unsupported` for a value that is nested too deeply, too large, or holds a number that JSON cannot write. */
export function checkValue(value: unknown): void {
  let level: unknown[] = [value];
  let count = 0;
  for (let depth = 0; level.length > 0; depth++) {
    count += level.length;
    if (depth > mostLevels)
      throw refused("schema", `values nested at most ${mostLevels} deep`, "deeper ones");
    if (count > mostValues) throw refused("schema", `at most ${mostValues} values`, "more");
    const next: unknown[] = [];
    for (const one of level) {
      if (typeof one === "number" && !Number.isFinite(one)) {
        throw refused("schema", "numbers that a double holds", "a larger one");
      }
      if (typeof one !== "object" || one === null) continue;
      const inside: readonly unknown[] = Array.isArray(one) ? one : Object.values(one);
      // texts need no look: they are counted here, since there may be very many
      for (const inner of inside)
        if (typeof inner === "string") count++;
        else next.push(inner);
    }
    level = next;
  }
}
