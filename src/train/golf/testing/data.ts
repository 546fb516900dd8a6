/** A small data set of golf shards with the SentencePiece tokenizer that made it. */
import { join } from "node:path";
import { sha256 } from "../../../core/digest.ts";
import { kindOfSplit } from "../../../data/corpora/splits.ts";
import { sealed, writeRecord, writeWhole } from "../../../data/record.ts";
import { referenceCorpus } from "../../../data/reference_corpus.ts";
import { type Dataset, datasetKind, manifestName } from "../../../data/shards/dataset.ts";
import { ShardWriter } from "../../../data/shards/shard_writer.ts";
import { SentencePieceTrainer, usualSentencePiece } from "../../../data/tokenizers/sentence_piece.ts";
import { tokenizerFromSentencePiece } from "../../../models/tokenizer/index.ts";
import { pieceModelBytes } from "../../../models/tokenizer/sentence_piece_model.ts";

const bos = 1;

/** Writes `dataset/` and `tokenizer/` below `folder`, of the corpus or of its letters in reverse; bytes of the validation text. */
export function writeGolfData(
  folder: string,
  vocabulary = 400,
  order: "as_is" | "reversed" = "as_is",
): number {
  const texts = referenceCorpus().sections.map(({ text }) =>
    order === "as_is" ? text : [...text].reverse().join(""),
  );
  const trainer = new SentencePieceTrainer({ ...usualSentencePiece, size: vocabulary });
  for (const text of texts) trainer.add(text);
  const model = pieceModelBytes(trainer.finish());
  writeWhole(join(folder, "tokenizer", "tokenizer.model"), [model]);
  const tokenizer = tokenizerFromSentencePiece(model);
  const { vocabularySize } = tokenizer;
  const held = texts.slice(-2);
  const splits = [
    { name: "train", texts: texts.slice(0, -2) },
    { name: "val", texts: held },
  ].map(({ name, texts: documents }) => {
    const writer = new ShardWriter({
      ...{ folder: join(folder, "dataset"), name: "small", split: name, format: "golf" },
      ...{ vocabularySize, shardTokens: 700 },
    });
    for (const text of documents)
      writer.add([bos, ...tokenizer.encode(text, { special: false, bos: false, eos: false })]);
    const shards = writer.finish();
    return {
      split_name: name,
      kind: kindOfSplit(name),
      sequence_count: shards.reduce((sum, s) => sum + s.sequence_count, 0),
      token_count: shards.reduce((sum, s) => sum + s.token_count, 0),
      shards,
    };
  });
  const dataset: Dataset = sealed(datasetKind, {
    ...{ abi_version: "psionic.dataset.v1", key: { dataset_ref: "small", version: "v1" } },
    ...{ display_name: "small v1", record_encoding: "token_ids_le_u16", shard_format: "golf" },
    tokenizer: { family: "sentence_piece", tokenizer_digest: sha256(model), vocab_size: vocabularySize },
    ...{ context_window_tokens: null, bos, eos: null, splits, manifest_digest: "" },
  } as const);
  writeRecord(join(folder, "dataset", manifestName), dataset);
  return held.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
}
