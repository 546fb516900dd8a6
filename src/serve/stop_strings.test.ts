import { expect, test } from "bun:test";
import fc from "fast-check";
import { StopStrings } from "./stop_strings.ts";

function run(stops: string[], pieces: string[]): { text: string; matched?: string; longestHeld: number } {
  const stop = new StopStrings(stops);
  let text = "";
  let seen = 0;
  let longestHeld = 0;
  for (const piece of pieces) {
    const result = stop.push(piece);
    text += result.text;
    seen += piece.length;
    if (result.matched !== undefined) return { text, matched: result.matched, longestHeld };
    longestHeld = Math.max(longestHeld, seen - text.length);
  }
  return { text: text + stop.flush(), longestHeld };
}

test("text before the earliest stop string comes out, however it is cut", () => {
  const letters = fc.stringMatching(/^[abc]{0,12}$/);
  const stops = fc.array(fc.stringMatching(/^[abc]{1,4}$/), { minLength: 1, maxLength: 3 });
  fc.assert(
    fc.property(fc.array(letters, { maxLength: 8 }), stops, (pieces, list) => {
      const whole = pieces.join("");
      // The stop that is complete first ends the text, where it begins.
      let end = -1;
      for (let i = 1; i <= whole.length && end < 0; i++) {
        const starts = list
          .filter((s) => whole.slice(0, i).includes(s))
          .map((s) => whole.slice(0, i).indexOf(s));
        if (starts.length > 0) end = Math.min(...starts);
      }
      const single = run(list, [...whole]);
      expect(single.text).toBe(end < 0 ? whole : whole.slice(0, end));
      const cut = run(list, pieces);
      expect(cut.matched === undefined).toBe(end < 0);
      expect(whole.startsWith(cut.text)).toBe(true);
      for (const stop of list) expect(cut.text.includes(stop)).toBe(false);
    }),
    { seed: 7, numRuns: 500 },
  );
});

test("no more is held back than could become a stop string", () => {
  expect(run(["<end>"], ["a<en", "b<e", "nd", "x"])).toEqual({ text: "a<enb<endx", longestHeld: 4 });
  expect(run(["<end>"], ["a<e", "nd>tail"])).toMatchObject({ text: "a", matched: "<end>" });
  expect(run([], ["abc"])).toEqual({ text: "abc", longestHeld: 0 });
});
