import { expect, test } from "bun:test";
import { join } from "node:path";
import { alphabet } from "../../models/tokenizer/byte_level.ts";
import {
  readPieceModel,
  tokenizerFromHuggingFace,
  tokenizerFromSentencePiece,
} from "../../models/tokenizer/index.ts";
import { pieceModelBytes } from "../../models/tokenizer/sentence_piece_model.ts";
import { randomBits } from "../random.ts";
import { ByteLevelTrainer } from "./byte_level.ts";
import { byId, type Learned, learnMerges } from "./learn.ts";
import { SentencePieceTrainer, sentencePieceJson, usualSentencePiece } from "./sentence_piece.ts";
import { packWords } from "./words.ts";

/** What the reference trainers made; scripts/make-tokenizer-training-golden.py writes it. */
type Golden = {
  readonly texts: readonly string[];
  readonly repeats: number;
  readonly odd: readonly string[];
  readonly [pre: string]: unknown;
};
type Merges = { readonly size: number; readonly merges: readonly [string, string][] };
type Pieces = {
  readonly size: number;
  readonly coverage: number;
  readonly model: string;
  readonly encoded: number[][];
};

const packed = await Bun.file(
  join(import.meta.dir, "../../../fixtures/golden/tokenizer_training.json.gz"),
).bytes();
const golden: Golden = JSON.parse(new TextDecoder().decode(Bun.gunzipSync(packed)));
const texts = Array.from({ length: golden.repeats }, () => golden.texts).flat();

const special = ["<|endoftext|>"];
const byteLevel = { size: 420, pre: "gpt-2", special, leastCount: 2, bos: special[0]!, eos: special[0]! };

function trainedBytes(options: Partial<typeof byteLevel> = {}, from = texts) {
  const trainer = new ByteLevelTrainer({ ...byteLevel, ...options });
  for (const text of from) trainer.add(text);
  return trainer.finish();
}

type Model = {
  readonly model: { readonly merges: [string, string][]; readonly vocab: Record<string, number> };
};

for (const pre of ["gpt-2", "llama3"]) {
  test(`byte-level merges are those of Hugging Face's trainer (${pre})`, () => {
    const { merges, size } = golden[pre] as Merges;
    const made = trainedBytes({ pre, size }).tokenizer as Model;
    expect(made.model.merges).toEqual([...merges]);
    expect(made.model.merges.length).toBe(size - 257);
  });
}

/** The same rule with every pair counted anew for every merge. */
function slowly(
  words: readonly (readonly [number[], number])[],
  size: number,
  first: readonly string[],
): Learned {
  const texts = [...first];
  const lists = words.map(([symbols, count]): [number[], number] => [[...symbols], count]);
  const merges: [number, number][] = [];
  while (texts.length < size) {
    const counts = new Map<string, number>();
    for (const [symbols, count] of lists)
      for (let i = 0; i + 1 < symbols.length; i++) {
        const key = `${symbols[i]} ${symbols[i + 1]}`;
        counts.set(key, (counts.get(key) ?? 0) + count);
      }
    const pairs = [...counts].map(
      ([key, count]) => [...key.split(" ").map(Number), count] as [number, number, number],
    );
    const [best] = pairs.sort((x, y) => y[2] - x[2] || byId(x[0], x[1], y[0], y[1], texts));
    if (!best || best[2] < 2) break;
    const [left, right] = best;
    const text = texts[left]! + texts[right]!;
    if (!texts.includes(text)) texts.push(text);
    merges.push([left, right]);
    for (const [symbols] of lists)
      for (let i = 0; i + 1 < symbols.length; i++)
        if (symbols[i] === left && symbols[i + 1] === right) symbols.splice(i, 2, texts.indexOf(text));
  }
  return { texts, merges };
}

test("the learner equals counting everything anew, over random words of few letters", () => {
  const bits = randomBits("tokenizer learner");
  const letters = ["a", "b", "c"];
  for (let round = 0; round < 200; round++) {
    const words = Array.from({ length: 1 + (bits() % 12) }, (): [number[], number] => [
      Array.from({ length: 1 + (bits() % 14) }, () => bits() % 3),
      1 + (bits() % 5),
    ]);
    const size = 4 + (bits() % 20);
    const fast = learnMerges(packWords(words), { alphabet: letters, size, leastCount: 2, before: byId });
    expect(fast).toEqual(slowly(words, size, letters));
  }
});

const odd = [
  ...golden.odd,
  "\ud800 lone surrogate \udfff",
  "▁marks ▁▁ in text",
  "\ufeffbom\r\n\t\u2029",
  String.fromCodePoint(0x10ffff, 0xe000, 0x1f468, 0x200d, 0x1f4bb),
  "x".repeat(5000),
  " ".repeat(300),
];

for (const pre of ["gpt-2", "gpt-4o", "llama3", "tekken"]) {
  test(`a byte-level tokenizer gives odd text back (${pre})`, () => {
    const { tokenizer, config } = trainedBytes({ pre });
    const opened = tokenizerFromHuggingFace(structuredClone(tokenizer), config);
    expect(opened.pre).toBe(pre === "llama3" ? "llama-bpe" : pre);
    expect(opened.bos).toBe(0);
    for (const text of [...odd, ...golden.texts])
      expect(opened.decode(opened.encode(text, { special: false }))).toBe(text.toWellFormed());
    expect(opened.encode("<|endoftext|>", { special: true })).toEqual([0]);
    expect(opened.encode("<|endoftext|>", { special: false }).length).toBeGreaterThan(1);
  });
}

test("qwen2's pre-tokenizer brings text to NFC, in training and in the file", () => {
  const { tokenizer, config } = trainedBytes({ pre: "qwen2" });
  const opened = tokenizerFromHuggingFace(tokenizer, config);
  expect(opened.decode(opened.encode("e\u0301", { special: false }))).toBe("é");
});

const sentencePiece = { ...usualSentencePiece, size: 480, characterCoverage: 0.98, leastCount: 1 };

function trainedPieces(options: Partial<typeof sentencePiece> = {}, from = texts) {
  const trainer = new SentencePieceTrainer({ ...sentencePiece, ...options });
  for (const text of from) trainer.add(text);
  return trainer.finish();
}

test("SentencePiece's own model loads and encodes as SentencePiece does", () => {
  const { model, encoded } = golden.sentence_piece as Pieces;
  const opened = tokenizerFromSentencePiece(Buffer.from(model, "base64"));
  expect([...golden.texts, ...golden.odd].map((text) => opened.encode(text, { special: false }))).toEqual(
    encoded,
  );
});

test("pieces are those of SentencePiece's trainer", () => {
  const { model } = golden.sentence_piece as Pieces;
  const reference = readPieceModel(Buffer.from(model, "base64")).pieces.map(({ text }) => text);
  const made = trainedPieces().pieces.map(({ text }) => text);
  expect(made.slice(0, 259)).toEqual(reference.slice(0, 259));
  const known = new Set(reference);
  // a tab is a boundary to it, and a character like others to us
  expect(made.filter((text) => !known.has(text) && !text.includes("\t"))).toEqual([]);
  expect(made.length).toBe(480);
});

test("a .model file survives writing and reading, and its tokenizer.json is the same tokenizer", () => {
  const model = trainedPieces();
  const bytes = pieceModelBytes(model);
  expect(readPieceModel(bytes)).toEqual(model);
  const own = tokenizerFromSentencePiece(bytes);
  const { tokenizer, config } = sentencePieceJson(model);
  const json = tokenizerFromHuggingFace(tokenizer, config);
  for (const text of [...odd, ...golden.texts]) {
    const ids = own.encode(text, { special: false });
    if (text !== "▁marks ▁▁ in text") expect(own.decode(ids)).toBe(text.toWellFormed());
    expect(json.encode(text, { special: false })).toEqual(ids);
  }
});

test("no piece mixes scripts, is longer than asked, or holds a newline", () => {
  const pieces = trainedPieces({ longest: 5 }).pieces.filter(({ type }) => type === 1);
  for (const { text } of pieces) {
    expect([...text].length).toBeLessThanOrEqual(5);
    expect(text).not.toMatch(/\n|.▁/u);
    expect(/\p{Script=Latin}/u.test(text) && /[\p{Script=Cyrillic}\p{N}]/u.test(text)).toBe(false);
  }
  const digits = trainedPieces({ splitDigits: true }).pieces.filter(({ text }) => /^▁?\d\d/.test(text));
  expect(digits).toEqual([]);
});

test("training does not depend on the order of documents", () => {
  const backwards = [...texts].reverse();
  expect(trainedBytes({}, backwards)).toEqual(trainedBytes());
  expect(trainedPieces({}, backwards)).toEqual(trainedPieces());
});

test("what cannot be trained is refused by name", () => {
  expect(() => trainedBytes({ size: 257 })).toThrow("vocabulary of 258 to");
  expect(() => trainedBytes({ pre: "gpt-5" })).toThrow("a pre-tokenizer of gpt-2");
  expect(() => trainedBytes({ bos: "<s>" })).toThrow("one of the special tokens");
  expect(() => trainedBytes({ special: ["<a>", "<a>"], bos: "<a>", eos: "<a>" })).toThrow("there twice");
  expect(() => trainedBytes({}, [])).toThrow("expected text, got none");
  expect(() => trainedBytes({}, [""])).toThrow("expected text, got none");
  expect(() => trainedPieces({ size: 280 })).toThrow(/at least \d+ pieces for this text, got 280/);
  expect(() => trainedPieces({ size: 100 })).toThrow("a vocabulary of 261 to");
  expect(() => trainedPieces({ characterCoverage: 0 })).toThrow("a character coverage");
  // fewer pairs than asked for is no failure
  expect(trainedBytes({ size: 100_000 }).size).toBeLessThan(2000);
  expect(alphabet.length).toBe(256);
});

test("damaged .model files are typed errors, whatever byte is wrong", () => {
  const bytes = pieceModelBytes(trainedPieces());
  const bits = randomBits("damaged model");
  for (let i = 0; i < 300; i++) {
    const copy = bytes.slice(0, i % 2 === 0 ? bytes.length : bits() % bytes.length);
    if (i % 2 === 0) copy[bits() % copy.length]! ^= 1 << (bits() % 8);
    try {
      tokenizerFromSentencePiece(copy);
    } catch (error) {
      expect((error as { code?: string }).code).toMatch(/^(file_malformed|unsupported)$/);
    }
  }
  expect(() => tokenizerFromSentencePiece(new Uint8Array(0))).toThrow("tokens");
  expect(() => tokenizerFromSentencePiece(Buffer.from("not a model at all"))).toThrow();
});
