import { expect, test } from "bun:test";
import fc from "fast-check";
import { float32, float32Text, orderedJson } from "./json.ts";
import { JsonFloat, parseExactJson } from "./json_reader.ts";

test("keys keep their order; files are indented as JSON.stringify does", () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 4 }), (value) => {
      // what JSON.stringify writes as 0 has a sign
      fc.pre(!Object.is(value, -0));
      expect(orderedJson(value)).toBe(JSON.stringify(value));
      expect(orderedJson(value, 2)).toBe(JSON.stringify(value, null, 2));
    }),
    { seed: 1, numRuns: 300 },
  );
  expect(orderedJson({ b: 1, a: undefined, c: [] })).toBe('{"b":1,"c":[]}');
  expect(orderedJson({ big: 18446744073709551615n, f: float32(4) })).toBe(
    '{"big":18446744073709551615,"f":4.0}',
  );
  expect(() => orderedJson({ x: Number.NaN })).toThrow("finite");
});

test("32-bit floats: known texts", () => {
  const known: readonly (readonly [number, string])[] = [
    ...([
      [4, "4.0"],
      [0, "0.0"],
      [-0, "-0.0"],
      [0.1, "0.1"],
      [-2.5, "-2.5"],
      [1 / 3, "0.33333334"],
    ] as const),
    ...([
      [5.5616503, "5.5616503"],
      [5.364421e-7, "5.364421e-7"],
      [1e-5, "0.00001"],
      [9.99e-6, "9.99e-6"],
    ] as const),
    ...([
      [1e15, "1000000000000000.0"],
      [1e16, "1e16"],
      [16777216, "16777216.0"],
    ] as const),
    ...([
      [3.4028235e38, "3.4028235e38"],
      [1e-45, "1e-45"],
      [2 ** -126, "1.1754944e-38"],
    ] as const),
  ];
  for (const [value, text] of known) expect(float32Text(value)).toBe(text);
  expect(() => float32Text(Number.POSITIVE_INFINITY)).toThrow("finite");
});

test("32-bit floats: the text reads back, and no shorter one does", () => {
  const bits = new DataView(new ArrayBuffer(4));
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 0x7f7fffff }), (n) => {
      bits.setUint32(0, n);
      const value = bits.getFloat32(0);
      const text = float32Text(value);
      expect(Math.fround(Number(text))).toBe(value);
      const digits = text.replace(/e.*|\./g, "").replace(/^0+|0+$/g, "").length;
      if (value === 0 || digits < 2) return;
      expect(Math.fround(Number(value.toPrecision(digits - 1)))).not.toBe(value);
    }),
    { seed: 2, numRuns: 3000 },
  );
});

test("reading loses nothing", () => {
  expect(parseExactJson(' {"a": [1, -2, "é\\u0000", null, true, false], "b": {}} ', "t")).toEqual({
    a: [1, -2, "é\u0000", null, true, false],
    b: {},
  } as never);
  expect(parseExactJson("18446744073709551615", "t")).toBe(18446744073709551615n);
  expect(parseExactJson("1.0", "t")).toBeInstanceOf(JsonFloat);
  expect(parseExactJson("1e3", "t")).toBeInstanceOf(JsonFloat);
  expect(parseExactJson("-0", "t")).toBeInstanceOf(JsonFloat);
  const proto = parseExactJson('{"__proto__": {"x": 1}}', "t") as object;
  expect(Object.keys(proto)).toEqual(["__proto__"]);
  expect("x" in proto).toBe(false);
});

test("what is no JSON is refused where it stands", () => {
  const deep = `${"[".repeat(65)}${"]".repeat(65)}`;
  const wrong = [
    ...[
      "",
      " ",
      "{",
      "[1,]",
      '{"a":1,}',
      "{a:1}",
      "01",
      "1.",
      ".5",
      "+1",
      "nul",
      "NaN",
      '"',
      '"\n"',
      '"\\x"',
    ],
    ...['"\\ud800"', '{"a":1,"a":2}', '{"a":1,"\\u0061":2}', "1 2", "\ufeff{}", deep, "'a'", "[1 2]"],
  ];
  for (const text of wrong) expect(() => parseExactJson(text, "t")).toThrow("[t] expected JSON with");
});

test("agrees with JSON.parse on what both take", () => {
  fc.assert(
    fc.property(fc.json({ maxDepth: 4 }), (text) => {
      const plain = (value: unknown): unknown =>
        value instanceof JsonFloat
          ? value.value
          : Array.isArray(value)
            ? value.map(plain)
            : typeof value === "object" && value !== null
              ? Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)]))
              : typeof value === "bigint"
                ? Number(value)
                : value;
      fc.pre(JSON.stringify(JSON.parse(text)).isWellFormed() && !text.includes("\\ud"));
      expect(plain(parseExactJson(text, "t"))).toEqual(JSON.parse(text));
    }),
    { seed: 3, numRuns: 300 },
  );
});
