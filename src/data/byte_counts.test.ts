import { expect, test } from "bun:test";
import { tokenizerFromHuggingFace, tokenizerFromSentencePiece } from "../models/tokenizer/index.ts";
import { pieceModelBytes } from "../models/tokenizer/sentence_piece_model.ts";
import { byteTable, byteTableOfPieces, countBytes } from "./byte_counts.ts";
import { ByteLevelTrainer } from "./tokenizers/byte_level.ts";
import { SentencePieceTrainer, usualSentencePiece } from "./tokenizers/sentence_piece.ts";

const texts = [
  "A text of several words, several words of a text.",
  "  blanks  before, and within\n\nlines\tand tabs ",
  "größer 今天天气 👩‍👩‍👧 \u0000\u00a0",
  "",
];

test("bytes of a document after its first token are those of its text (SentencePiece)", () => {
  const trainer = new SentencePieceTrainer({
    ...usualSentencePiece,
    size: 320,
    leastCount: 1,
    characterCoverage: 0.9,
  });
  for (const text of texts) trainer.add(text);
  const model = trainer.finish();
  const tokenizer = tokenizerFromSentencePiece(pieceModelBytes(model));
  const table = byteTableOfPieces(model);
  expect(byteTable(tokenizer)).toEqual(table);
  const stream = texts.flatMap((text) => [1, ...tokenizer.encode(text, { special: false })]);
  const total = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
  expect(countBytes(table, stream.slice(1), stream.slice(0, -1))).toBe(total);
  // <s> and </s> count nothing, and the blank of a word after a word counts
  const word = model.pieces.findIndex(({ text }) => /^▁\p{L}/u.test(text));
  const bytes = Buffer.byteLength(model.pieces[word]!.text) - 3;
  expect(countBytes(table, [1, word, word, 2, -1], [word, 1, word, word, 2])).toBe(2 * bytes + 1);
});

test("bytes of a byte-level vocabulary are those of its tokens", () => {
  const trainer = new ByteLevelTrainer({
    size: 300,
    pre: "gpt-2",
    special: ["<|endoftext|>"],
    leastCount: 1,
  });
  for (const text of texts) trainer.add(text);
  const { tokenizer, config } = trainer.finish();
  const opened = tokenizerFromHuggingFace(tokenizer, config);
  const stream = texts.flatMap((text) => [0, ...opened.encode(text, { special: false })]);
  const total = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
  const table = byteTable(opened);
  expect(countBytes(table, stream.slice(1), stream.slice(0, -1))).toBe(total);
  expect(() => countBytes(table, [300], [0])).toThrow("tokens below 300");
  expect(() => countBytes(table, [1], [])).toThrow("1 tokens before");
});
