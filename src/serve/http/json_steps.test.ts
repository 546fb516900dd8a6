import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { runAll } from "../../core/steps.ts";
import { parseJson } from "./json_steps.ts";

setDefaultTimeout(60_000);

const limits = { nesting: 1024, containers: 250_000, texts: 500_000, values: 3_000_000 };
const utf8 = new TextEncoder();
const read = (text: string, bounds = limits) => runAll(parseJson(utf8.encode(text), bounds));

/** Numbers from 0 up to 1, the same for one seed. */
function sequence(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return state / 0x80000000;
  };
}

/** A value that is large in some places: long texts, long lists, many members, one in another. */
function anyValue(random: () => number, depth = 0): unknown {
  const kind = Math.floor(random() * (depth > 3 ? 4 : 7));
  const odd = ['"', "\\", "\n", "é", "漢", "😀", "\ud83d", ",", "]", "}", "{", " ", "a"];
  const text = (most: number) =>
    Array.from({ length: random() * most }, () => odd[Math.floor(random() * odd.length)]).join("");
  if (kind === 0) return random() < 0.5 ? null : random() < 0.5;
  if (kind === 1) return Math.round(random() * 1e6) / 64;
  if (kind === 2) return text(12);
  if (kind === 3) return text(random() < 0.2 && depth < 4 ? 120_000 : 50);
  const count = random() < 0.1 && depth < 2 ? 5000 : random() * 6;
  if (kind === 4) return Array.from({ length: count }, () => anyValue(random, count > 6 ? 4 : depth + 1));
  const names = ["__proto__", "constructor", "1", "0", "a", "b", "", '"', "漢"];
  return Object.fromEntries(
    Array.from({ length: count }, (_, i) => [
      i < 9 ? names[Math.floor(random() * names.length)]! : `n${i}`,
      anyValue(random, count > 6 ? 4 : depth + 1),
    ]),
  );
}

const spaced = (text: string) => text.replaceAll(/,(?=\d)/g, " ,\n\t").replaceAll(/:(?=\[)/g, " :\r ");

describe("a JSON text in steps", () => {
  test("has the value that the engine's own parser finds", () => {
    let large = 0;
    for (let seed = 1; seed <= 30; seed++) {
      const random = sequence(seed);
      const text = JSON.stringify([anyValue(random), { x: [anyValue(random)] }, anyValue(random)]);
      if (text.length > 40_000) large += 1;
      for (const one of [text, spaced(text), JSON.stringify(JSON.parse(text), null, 1)]) {
        const [found, expected] = [read(one), JSON.parse(one)];
        expect(JSON.stringify(found) === JSON.stringify(expected)).toBe(true);
        expect(Bun.deepEquals(found, expected, true)).toBe(true);
      }
    }
    expect(large).toBeGreaterThan(5);
  });

  test("is refused where the parser refuses it, wherever it is damaged", () => {
    const big = `"${"x".repeat(40_000)}"`;
    const texts = [
      `{"a":${big},"b":[${big},1,{"c":${big}}],"d":2}`,
      `[${Array.from({ length: 20_000 }, (_, i) => i)}]`,
      `{"a":[${Array.from({ length: 20_000 }, (_, i) => `{"n":${i}}`)}]}`,
    ];
    const marksOf = new Map(
      texts.map((text) => [text, [...text.matchAll(/[[\]{}:,"]/g)].map(({ index }) => index)]),
    );
    const random = sequence(7);
    const damage = [",", "]", "}", "[", "{", '"', ":", " ", "", "null", "\\", "\u0001", "1"];
    let refused = 0;
    for (let i = 0; i < 200; i++) {
      const text = texts[i % texts.length]!;
      // mostly near the marks, where it matters
      const marks = marksOf.get(text)!;
      const near = random() < 0.5 ? marks.slice(0, 8) : marks;
      const at = near[Math.floor(random() * near.length)]! + Math.floor(random() * 2);
      const gone = Math.floor(random() * 3);
      const one = text.slice(0, at) + damage[Math.floor(random() * damage.length)]! + text.slice(at + gone);
      let expected: unknown;
      try {
        expected = JSON.parse(one);
      } catch {
        refused += 1;
        expect(() => read(one)).toThrow();
        continue;
      }
      expect(Bun.deepEquals(read(one), expected, true)).toBe(true);
    }
    expect(refused).toBeGreaterThan(40);
  });

  test("is looked at in small steps, whatever it consists of", () => {
    const texts = [
      `{"a":"${"x\\n".repeat(2 ** 19)}"}`,
      `[${"1,".repeat(2 ** 19)}1]`,
      `{"a":[${'{"b":[]},'.repeat(2 ** 16)}1]}`,
      `[${"[".repeat(900)}${"1,".repeat(2 ** 18)}1${"]".repeat(900)}]`,
    ];
    for (const text of texts) {
      const steps = parseJson(utf8.encode(text), limits);
      let count = 1;
      while (!steps.next().done) count += 1;
      // 32 KiB are parsed in one, so fewer would be longer ones
      expect(count).toBeGreaterThan(text.length / 2 ** 16);
    }
  });

  test("may begin with a byte order mark, and must be UTF-8", () => {
    const long = "é".repeat(30_000);
    expect(read(`\ufeff{"a":"\ufeff${long}"}`)).toEqual({ a: `\ufeff${long}` });
    expect(read('\ufeff{"a":"\ufeff"}')).toEqual({ a: "\ufeff" });
    for (const length of [10, 30_000]) {
      const bytes = utf8.encode(`{"a":"${"é".repeat(length)}"}`);
      bytes[bytes.length - 3] = 0x41;
      expect(() => runAll(parseJson(bytes, limits))).toThrow(TypeError);
    }
  });

  test("is not nested too deep", () => {
    const many = { containers: 5000, texts: 10, values: 10 };
    const tooDeep = (text: string, nesting: number) => {
      try {
        read(text, { ...many, nesting });
      } catch (error) {
        return String(error).includes("nested more than");
      }
      return false;
    };
    expect(tooDeep("[".repeat(1025), 1024)).toBe(true);
    expect(tooDeep("[".repeat(1024) + "]".repeat(1024), 1024)).toBe(false);
    expect(tooDeep('[{"a":[]},{"b":[]}]', 3)).toBe(false);
    expect(tooDeep('[{"a":[]},{"b":[]}]', 2)).toBe(true);
    expect(tooDeep('["[[[\\\\\\"[[[","\\\\"]', 1)).toBe(false);
    expect(tooDeep('["\\\\",[[]]]', 2)).toBe(true);
  });

  test("has not too many objects, texts and values", () => {
    const few = { nesting: 9, containers: 3, texts: 4, values: 5 };
    expect(() => read('[{},{},"{[,",1,"\\",2"]', few)).not.toThrow();
    expect(() => read("[{},{},[]]", few)).toThrow("more than 3 objects and arrays");
    expect(() => read('{"a":"b","c":"d","e":1}', few)).toThrow("more than 4 texts");
    expect(() => read("[1,2,3,4,5,6,7]", few)).toThrow("more than 5 values");
  });
});
