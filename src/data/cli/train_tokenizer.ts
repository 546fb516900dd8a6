import { existsSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../../core/digest.ts";
import { unexpected } from "../../core/error.ts";
import { pieceModelBytes } from "../../models/tokenizer/sentence_piece_model.ts";
import { decimalNumber, list, UsageError, wholeNumber, words } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { Progress } from "../../terminal/progress.ts";
import { checkSplit, openSelection, selectedDocuments } from "../corpora/selection.ts";
import { checkPlace, type RecordKind, sealed, writeRecord, writeWhole } from "../record.ts";
import { ByteLevelTrainer } from "../tokenizers/byte_level.ts";
import { SentencePieceTrainer, sentencePieceJson, usualSentencePiece } from "../tokenizers/sentence_piece.ts";
import { type DataAction, type Given, selectionArgs, value, withProgress } from "./action.ts";

const reportKind: RecordKind = {
  schema: "psionic.data.tokenizer_report.v1",
  digestField: "report_digest",
  prefix: "psionic_data_tokenizer_report|",
};

/** Files by name, and how many entries the vocabulary has. */
type Trained = { readonly files: Readonly<Record<string, Uint8Array>>; readonly size: number };

type Trainer = {
  add(text: string): void;
  finish(onMerge: (done: number) => void): Trained;
};

/** A file of the other kind would stay beside the new ones, and be read in their place or with them. */
function checkFolder(out: string, kind: string): void {
  const other = kind === "byte_level_bpe" ? "tokenizer.model" : "tokenizer_config.json";
  if (!existsSync(join(out, other))) return;
  throw unexpected("invalid_request", out, "a folder without a tokenizer of another kind", other, {
    fix: "Write into another folder",
  });
}

export const trainTokenizer: DataAction = {
  name: "train-tokenizer",
  description: "trains a byte-level BPE or SentencePiece-BPE tokenizer on one split.",
  args: {
    ...selectionArgs,
    kind: {
      type: "enum",
      options: list("byte_level_bpe", "sentence_piece_bpe"),
      description: "tokenizer.json over bytes, or tokenizer.model over characters with byte fallback",
    },
    vocabulary: value("N", "Entries of the vocabulary, special tokens and bytes included"),
    "train-split": { ...value("NAME", "Split that is read"), default: "train" },
    pre: {
      ...value("NAME", "byte_level_bpe: pre-tokenizer, such as gpt-2, gpt-4o, llama3, qwen2"),
      default: "gpt-2",
    },
    special: value("LIST", "Control tokens, with commas; byte_level_bpe: <|endoftext|> unless given"),
    bos: value("TEXT", "byte_level_bpe: the special token that begins a text; absent: the first"),
    eos: value("TEXT", "byte_level_bpe: the special token that ends a text; absent: the first"),
    coverage: value(
      "SHARE",
      "sentence_piece_bpe: share of characters with a piece of their own; absent: 0.9995",
    ),
    "split-digits": { type: "boolean", description: "sentence_piece_bpe: every digit is a piece of its own" },
    "least-count": { ...value("N", "Pairs that occur less often are not merged"), default: "2" },
    out: value("FOLDER", "What is written"),
    json: { type: "boolean", description: "Write one JSON document to stdout" },
  },
  examples: [
    "psionic data train-tokenizer --manifest corpora.json --kind byte_level_bpe --vocabulary 32768 --out tokenizer",
    "psionic data train-tokenizer --manifest corpora.json --kind sentence_piece_bpe --vocabulary 1024 --out tokenizer",
  ],
  async run(given) {
    const out = given.required("out");
    checkPlace(join(out, "report.json"));
    const kind = given.required("kind");
    checkFolder(out, kind);
    const size = wholeNumber(given.required("vocabulary"), "--vocabulary", 1)!;
    const trainer = kind === "byte_level_bpe" ? byteLevel(given, size) : sentencePiece(given, size);
    const selection = await openSelection(
      given.required("manifest"),
      given.text("splits"),
      given.text("duplicates"),
    );
    const split = given.required("train-split");
    checkSplit(selection, split, "--train-split");
    const begun = performance.now();
    let [documents, textBytes] = [0, 0];
    await withProgress(async (onBytes) => {
      for await (const { text } of selectedDocuments(selection, [split], onBytes)) {
        trainer.add(text);
        documents++;
        textBytes += Buffer.byteLength(text);
      }
    });
    if (textBytes === 0)
      throw unexpected("invalid_request", "data train-tokenizer", `text in split ${split}`, "none");
    const progress = new Progress({ format: String });
    const trained = trainer.finish((done) => progress.update("merges", done, size));
    progress.end();
    for (const [name, bytes] of Object.entries(trained.files)) writeWhole(join(out, name), [bytes]);
    const report = sealed(reportKind, {
      family: kind === "byte_level_bpe" ? "byte_pair_encoding" : "sentence_piece",
      vocab_size: trained.size,
      asked_vocab_size: size,
      files: Object.entries(trained.files).map(([path, bytes]) => ({ path, sha256: sha256(bytes) })),
      corpora_digest: selection.manifest.manifest_digest,
      split_digest: selection.splitDigest,
      duplicate_digest: selection.duplicateDigest,
      split_name: split,
      ...{ document_count: documents, text_bytes: textBytes },
      report_digest: "",
    });
    writeRecord(join(out, "report.json"), report);
    const seconds = (performance.now() - begun) / 1000;
    if (given.flag("json")) return printJson({ ...report, duration_ms: Math.round(1000 * seconds) });
    const short = trained.size < size ? `; the text has no more pairs than that, ${size} were asked for` : "";
    await print(
      `${trained.size} entries from ${documents} documents in ${seconds.toFixed(1)} s: ${out}${short}`,
    );
  },
};

const json = (content: object): Uint8Array =>
  new TextEncoder().encode(`${JSON.stringify(content, null, 1)}\n`);

/** An option that the chosen kind does not read must not be given. */
function refuseOptions(given: Given, kind: string, names: readonly string[]): void {
  for (const name of names)
    if (given.all(name).length > 0) throw new UsageError(`--kind ${kind} takes no --${name}`);
}

function byteLevel(given: Given, size: number): Trainer {
  refuseOptions(given, "byte_level_bpe", ["coverage", "split-digits"]);
  const special = words(given.text("special")) ?? ["<|endoftext|>"];
  const trainer = new ByteLevelTrainer({
    ...{ size, special, pre: given.required("pre"), leastCount: leastCount(given) },
    ...{ bos: given.text("bos") ?? special[0]!, eos: given.text("eos") ?? special[0]! },
  });
  return {
    add: (text) => trainer.add(text),
    finish: (onMerge) => {
      const made = trainer.finish(onMerge);
      const files = { "tokenizer.json": json(made.tokenizer), "tokenizer_config.json": json(made.config) };
      return { files, size: made.size };
    },
  };
}

function sentencePiece(given: Given, size: number): Trainer {
  refuseOptions(given, "sentence_piece_bpe", ["pre", "bos", "eos"]);
  const trainer = new SentencePieceTrainer({
    ...usualSentencePiece,
    ...{ size, special: words(given.text("special")) ?? [], leastCount: leastCount(given) },
    characterCoverage:
      decimalNumber(given.text("coverage"), "--coverage", 0.01, 1) ?? usualSentencePiece.characterCoverage,
    splitDigits: given.flag("split-digits"),
  });
  return {
    add: (text) => trainer.add(text),
    finish: (onMerge) => {
      const model = trainer.finish(onMerge);
      const same = sentencePieceJson(model);
      const files = {
        "tokenizer.model": pieceModelBytes(model),
        "tokenizer.json": json(same.tokenizer),
        "tokenizer_config.json": json(same.config),
      };
      return { files, size: model.pieces.length };
    },
  };
}

const leastCount = (given: Given): number => wholeNumber(given.text("least-count"), "--least-count", 1)!;
