import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { runAll } from "../../core/steps.ts";
import { alphabet } from "./byte_level.ts";
import { tokenizerFromHuggingFace } from "./hugging_face.ts";
import { normalForm, toNfc } from "./normal_form.ts";
import { eachPiece, MAX_PIECE_UNITS } from "./piece_windows.ts";
import { pieces, preTokenizers } from "./split.ts";

setDefaultTimeout(60_000);

const cut = (name: string, text: string): string[] => {
  const found: string[] = [];
  const { split } = preTokenizers.get(name)!;
  runAll(eachPiece(text, split, (part, start, end) => found.push(part.slice(start, end))));
  return found;
};

/** A vocabulary of bytes and two merges, which reads `pre`'s pieces. */
function tokenizer(pre: string, normalizer: object | null = null) {
  const vocabulary = [...alphabet, "aa", "aaaa", "<s>", "</s>"];
  return tokenizerFromHuggingFace({
    model: {
      type: "BPE",
      vocab: Object.fromEntries(vocabulary.map((text, id) => [text, id])),
      merges: ["a a", "aa aa"],
      ignore_merges: false,
    },
    added_tokens: ["<s>", "</s>"].map((content) => ({
      id: vocabulary.indexOf(content),
      content,
      special: true,
    })),
    normalizer,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        {
          type: "Split",
          pattern: { Regex: preTokenizers.get(pre)!.pattern },
          behavior: "Isolated",
          invert: false,
        },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
      ],
    },
    decoder: { type: "ByteLevel" },
  });
}

describe("pieces of a long text", () => {
  const words = ["word", " word", "  ", "\n\n", " 1234", "don't", "é", "漢字", "😀", "...", " \t\n "];
  const text = Array.from({ length: 40_000 }, (_, i) => words[(i * i * 7 + (i >> 3)) % words.length]).join(
    "",
  );

  test("are those of the text at once", () => {
    expect(text.length).toBeGreaterThan(6 * MAX_PIECE_UNITS);
    for (const [name, { split }] of preTokenizers)
      expect([name, cut(name, text)]).toEqual([name, pieces(split, text)]);
  });

  test("are cut where they are too long, and never within a character", () => {
    for (const long of ["a", " ", "\n", "漢", "1", "😀", "e\u0301"].map(
      (one) => `x ${one.repeat(100_000)} y`,
    )) {
      for (const name of preTokenizers.keys()) {
        const found = cut(name, long);
        expect(found.join("") === long).toBe(true);
        expect(found.every((piece) => piece.length <= MAX_PIECE_UNITS && piece.isWellFormed())).toBe(true);
      }
    }
  });
});

describe("a long text in steps", () => {
  const mixed = `<s>${"a".repeat(70_000)} b <s></s>${"some words, ".repeat(20_000)}</s>`;

  test("has the tokens that it has at once, at both ends too", () => {
    const ours = tokenizer("gpt-2");
    for (const special of [true, false]) {
      const parts = runAll(ours.encodeSteps(mixed, { special }));
      expect(parts.length).toBeGreaterThan(1);
      expect(parts.flat()).toEqual(ours.encode(mixed, { special }));
    }
  });

  test("takes more of them the longer it is, and ends beyond a bound", () => {
    const ours = tokenizer("gpt-2");
    for (const one of ["a", " ", "<", "<s>", "word ", "\n", "漢"]) {
      const steps = ours.encodeSteps(one.repeat(2 ** 17), { special: true });
      let count = 0;
      while (!steps.next().done) count += 1;
      expect([one, count > (2 ** 17 * one.length) / MAX_PIECE_UNITS / 4]).toEqual([one, true]);
      const bounded = runAll(ours.encodeSteps(one.repeat(2 ** 17), { special: true }, 1000)).flat();
      expect(bounded.length).toBeGreaterThan(1000);
      expect(bounded.length).toBeLessThan(1000 + 4 * MAX_PIECE_UNITS);
    }
  });
});

describe("normal forms", () => {
  test("of long rows of marks take no longer than others", () => {
    // engines take a minute for this one
    const row = "\u0301\u0316".repeat(100_000);
    const made = toNfc(`e${row}e\u0301`);
    expect(made.length).toBe(row.length + 1);
    expect([made.startsWith("\u00e9"), made.endsWith("\u00e9")]).toEqual([true, true]);
    expect(tokenizer("qwen2", { type: "NFC" }).encode(row, { special: false }).length).toBe(2 * row.length);
  });

  test("are the engine's where rows are short", () => {
    const marks = "\u0301\u0316\u0327".repeat(10);
    for (const form of ["NFC", "NFD", "NFKC", "NFKD"] as const) {
      for (const text of [`a${marks}b${marks}`, "ﬁ é 漢 각", ""])
        expect(normalForm(text, form)).toBe(text.normalize(form));
    }
  });
});
