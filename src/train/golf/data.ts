/** Shards and tokenizer of a Parameter Golf run, held against each other. */

import { sha256 } from "../../core/digest.ts";
import { unexpected } from "../../core/error.ts";
import { type ByteTable, byteTableOfPieces } from "../../data/byte_counts.ts";
import { type LoaderContract, usualContract } from "../../data/loader/contract.ts";
import { allTokens } from "../../data/loader/reader.ts";
import { readBytes } from "../../data/record.ts";
import {
  datasetIdentity,
  type OpenDataset,
  openDataset,
  splitNamed,
  verifyDataset,
} from "../../data/shards/dataset.ts";
import { tokenizerFromSentencePiece } from "../../models/tokenizer/index.ts";
import { readPieceModel } from "../../models/tokenizer/sentence_piece_model.ts";
import type { GolfSettings } from "./settings.ts";

export type GolfData = {
  readonly dataset: OpenDataset;
  readonly identity: string;
  readonly trainTokens: number;
  /** All of the validation split. */
  readonly validation: Int32Array;
  readonly bytes: ByteTable;
  readonly vocabularySize: number;
  readonly tokenizerDigest: string;
};

/** The order in which a run reads its training tokens: all one after another, over shard ends and epochs. */
export const golfContract = (s: GolfSettings): LoaderContract => ({
  ...usualContract,
  ...{ split_name: "train", mode: "repeat", shard_ordering: "manifest_order", layout: "stream" },
  ...{ shuffle_seed: 0, rows: s.sequences, length: s.length },
});

const baselineVocabulary = 1024;

/** Tokens of a document that are decoded and encoded again, and the share of them that must come back. */
const compared = { least: 32, most: 256, share: 0.5 } as const;

/**
 * Throws for a tokenizer that does not make the tokens of shards that do not name theirs: a document of theirs is decoded and
 * encoded again, which but for the cut at its end gives the same tokens where the tokenizer is that of the shards.
 */
function checkEncoding(tokens: Int32Array, place: string, model: Uint8Array): void {
  const tokenizer = tokenizerFromSentencePiece(model);
  let from = 0;
  let document = tokens.subarray(0, compared.most);
  for (let i = 0; i <= tokens.length; i++) {
    if (i < tokens.length && tokens[i] !== tokenizer.bos) continue;
    document = tokens.subarray(from, Math.min(i, from + compared.most));
    if (document.length >= compared.least) break;
    from = i + 1;
  }
  const again = tokenizer.encode(tokenizer.decode(document), { special: false, bos: false, eos: false });
  let same = 0;
  while (same < document.length && document[same] === again[same]) same++;
  if (same >= compared.share * document.length) return;
  throw unexpected(
    "digest_mismatch",
    place,
    "the tokenizer that made the shards",
    `one that encodes ${same} of ${document.length} tokens of a document of theirs as they are`,
  );
}

/** Opens both, checks every shard and that they belong together. */
export async function openGolfData(
  s: Pick<GolfSettings, "dataset" | "tokenizer" | "model" | "length">,
  onShard: (done: number, total: number) => void = () => {},
): Promise<GolfData> {
  const file = readBytes(s.tokenizer.endsWith(".model") ? s.tokenizer : `${s.tokenizer}/tokenizer.model`);
  const tokenizerDigest = sha256(file);
  const pieces = readPieceModel(file);
  const vocabularySize = pieces.pieces.length;
  if (s.model === "baseline_sp1024_9x512" && vocabularySize !== baselineVocabulary)
    throw unexpected(
      "invalid_request",
      s.tokenizer,
      `a tokenizer of ${baselineVocabulary} pieces`,
      vocabularySize,
      { fix: "psionic data train-tokenizer --kind sentence_piece_bpe --vocabulary 1024 makes one" },
    );
  const found = openDataset(s.dataset);
  if (found.shard_format !== "golf")
    throw unexpected("invalid_request", s.dataset, "golf shards", `${found.shard_format} shards`, {
      fix: "psionic data pack --format golf makes them",
    });
  const stated = found.tokenizer.tokenizer_digest;
  if (stated !== "" && stated !== tokenizerDigest)
    throw unexpected(
      "digest_mismatch",
      s.tokenizer,
      `the tokenizer of the shards, ${stated}`,
      tokenizerDigest,
    );
  // files without a manifest do not say how large their vocabulary is
  const dataset = { ...found, tokenizer: { ...found.tokenizer, vocab_size: vocabularySize } };
  await verifyDataset(dataset, onShard);
  const split = dataset.splits.find(({ split_name }) => ["validation", "val"].includes(split_name));
  if (!split) throw unexpected("invalid_request", s.dataset, "a split named val or validation", "none");
  if (split.token_count <= s.length)
    throw unexpected(
      "invalid_request",
      s.dataset,
      `more than ${s.length} tokens to validate on`,
      split.token_count,
    );
  const validation = allTokens(dataset, split.split_name);
  if (stated === "") checkEncoding(validation, s.tokenizer, file);
  return {
    ...{ dataset, identity: datasetIdentity(dataset), vocabularySize, tokenizerDigest },
    trainTokens: splitNamed(dataset, "train").token_count,
    validation,
    bytes: byteTableOfPieces(pieces),
  };
}
