import { describe, expect, test } from "bun:test";
import { checkedArguments } from "./arguments.ts";
import { list, UsageError, wholeNumber, wholeNumbers } from "./command.ts";
import { Progress } from "./progress.ts";
import { readableBytes, readableCount, table } from "./table.ts";
import { visible } from "./visible.ts";

const args = {
  model: { type: "string", alias: "m" },
  layers: { type: "string", alias: list("ngl", "gpu-layers") },
  type: { type: "enum", options: list("f16", "f32") },
  json: { type: "boolean" },
  text: { type: "positional", required: false },
} as const;

describe("arguments", () => {
  test("every spelling becomes one", () => {
    expect(checkedArguments(["-m", "a", "-ngl", "-1", "--json", "x"], args)).toEqual([
      ...["--model=a", "--layers=-1", "--json=true", "--", "x"],
    ]);
    expect(checkedArguments(["--m=a=b", "-layers=3", "--no-json"], args)).toEqual([
      ...["--model=a=b", "--layers=3", "--json=false"],
    ]);
    expect(checkedArguments(["--", "--json"], args)).toEqual(["--", "--json"]);
    expect(checkedArguments(["-"], args)).toEqual(["--", "-"]);
  });

  test("what is wrong is said", () => {
    const cases: readonly (readonly [readonly string[], string])[] = [
      [["--modle", "a"], "unknown option --modle; did you mean --model?"],
      [["--zzzzzz"], "unknown option --zzzzzz"],
      [["-m"], "-m expects a value"],
      [["-m", "--json"], "-m expects a value"],
      [["-m", "a", "--model", "b"], "--model is given twice"],
      [["--type", "f33"], "--type takes one of f16, f32, got f33; did you mean f32?"],
      [["--json=maybe"], "--json takes no value, got maybe"],
      [["--no-model"], "unknown option --no-model"],
      [["a", "b"], 'unexpected argument "b"'],
    ];
    for (const [words, message] of cases) {
      expect(() => checkedArguments(words, args)).toThrow(message);
      expect(() => checkedArguments(words, args)).toThrow(UsageError);
    }
  });

  test("numbers are whole and in range", () => {
    expect(wholeNumber("12", "-n", 0)).toBe(12);
    expect(wholeNumber(undefined, "-n", 0)).toBeUndefined();
    for (const text of ["", "1.5", "1e3", "0x10", "-1", "abc", "9".repeat(40)]) {
      expect(() => wholeNumber(text, "-n", 0)).toThrow(UsageError);
    }
    expect(wholeNumbers("1,8", "-b", 1)).toEqual([1, 8]);
    expect(() => wholeNumbers("1,,8", "-b", 1)).toThrow(UsageError);
  });
});

describe("progress", () => {
  const watched = (isTTY: boolean) => {
    let now = 0;
    let text = "";
    const stream = { isTTY, columns: 80, write: (t: string) => (text += t) };
    const progress = new Progress({ stream, now: () => now });
    return {
      progress,
      at: (ms: number) => {
        now = ms;
      },
      text: () => text,
    };
  };

  test("a bar with rate and time left on a terminal, taken away at the end", () => {
    const { progress, at, text } = watched(true);
    progress.update("weights", 0, 4 * 2 ** 20);
    at(1000);
    progress.update("weights", 2 ** 20, 4 * 2 ** 20);
    expect(text()).toContain("######..................");
    expect(text()).toContain("25 % of 4.00 MiB, 1.00 MiB/s, 3 s left");
    progress.end();
    expect(text()).toEndWith("\r\u001b[K");
  });

  test("a plain line every five seconds elsewhere", () => {
    const { progress, at, text } = watched(false);
    for (let second = 0; second <= 11; second++) {
      at(second * 1000);
      progress.update("weights", second * 2 ** 20, 20 * 2 ** 20);
    }
    progress.end();
    expect(text()).toBe(
      "weights 25 % of 20.0 MiB, 1.00 MiB/s, 15 s left\nweights 50 % of 20.0 MiB, 1.00 MiB/s, 10 s left\n",
    );
  });
});

test("tables and amounts", () => {
  expect(
    table(
      [
        ["a", "1"],
        ["bcd", "12"],
      ],
      [1],
    ),
  ).toBe("a     1\nbcd  12");
  expect([0, 1023, 1024, 123456789].map(readableBytes)).toEqual(["0 B", "1023 B", "1.00 KiB", "117.7 MiB"]);
  expect([999, 13622368].map(readableCount)).toEqual(["999", "13.6M"]);
});

test("control characters are written out, so that a terminal does not obey a model file", () => {
  expect(visible("a\u001b[31mb\u009bc\rd\n\te\u007f ü🙂")).toBe(
    "a\\u001b[31mb\\u009bc\\u000dd\n\te\\u007f ü🙂",
  );
});
