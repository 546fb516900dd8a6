/** Tokenises the documents of a selection and writes them as shards with a manifest. */
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { unexpected } from "../core/error.ts";
import type { Tokenizer } from "../models/tokenizer/index.ts";
import type { OnBytes } from "./corpora/manifest.ts";
import { type Selection, selectedDocuments } from "./corpora/selection.ts";
import { kindOfSplit } from "./corpora/splits.ts";
import { removeRecord, sealed, writeRecord } from "./record.ts";
import { type Dataset, type DatasetTokenizer, datasetKind, manifestName } from "./shards/dataset.ts";
import type { ShardFormat } from "./shards/shard_file.ts";
import { ShardWriter } from "./shards/shard_writer.ts";

export type PackOptions = {
  readonly datasetRef: string;
  readonly version: string;
  readonly format: ShardFormat;
  readonly shardTokens: number;
  /** Tokens of the longest sequence; undefined: documents stay whole. */
  readonly contextWindow?: number;
  /** What becomes of longer documents: cut with one token of overlap, so that every token but the first is predicted once. */
  readonly overlong: "split" | "drop" | "refuse";
  readonly bos: number | undefined;
  readonly eos: number | undefined;
};

export type Packed = {
  readonly dataset: Dataset;
  readonly documents: number;
  readonly dropped: number;
  readonly textBytes: number;
};

/** Sequences of a document's tokens under the limit; none where it is dropped. */
export function sequencesOf(
  tokens: readonly number[],
  limit: number | undefined,
  overlong: PackOptions["overlong"],
  where: string,
): (readonly number[])[] {
  if (limit === undefined || tokens.length <= limit) return [tokens];
  if (overlong === "drop") return [];
  if (overlong === "refuse") {
    const fix = "Allow overlong documents to be split or dropped";
    throw unexpected("invalid_request", where, `documents of at most ${limit} tokens`, tokens.length, {
      fix,
    });
  }
  const out: (readonly number[])[] = [];
  for (let from = 0; from + 1 < tokens.length; from += limit - 1) out.push(tokens.slice(from, from + limit));
  return out;
}

export async function pack(
  selection: Selection,
  tokenizer: Tokenizer,
  identity: Omit<DatasetTokenizer, "vocab_size">,
  folder: string,
  options: PackOptions,
  onBytes: OnBytes = () => {},
): Promise<Packed> {
  const { format, overlong, bos, eos, contextWindow } = options;
  if (contextWindow !== undefined && !(Number.isInteger(contextWindow) && contextWindow >= 2))
    throw unexpected("invalid_request", "data pack", "a context window of at least 2 tokens", contextWindow);
  if (format === "golf" && bos === undefined) {
    const fix = "Name one with --bos, or use the psionic format";
    throw unexpected(
      "invalid_request",
      "data pack",
      "a token that begins documents for golf shards",
      "none",
      { fix },
    );
  }
  const limit = format === "golf" ? undefined : contextWindow;
  const earlier = earlierShards(folder, options.datasetRef);
  // a manifest of earlier shards must not stand beside new ones
  removeRecord(join(folder, manifestName));
  const writers = new Map<string, ShardWriter>();
  let [documents, dropped, textBytes] = [0, 0, 0];
  for await (const { key, split, text } of selectedDocuments(selection, undefined, onBytes)) {
    const ids = tokenizer.encode(text, { special: false, bos: false, eos: false });
    const tokens = [...(bos === undefined ? [] : [bos]), ...ids, ...(eos === undefined ? [] : [eos])];
    const sequences = sequencesOf(tokens, limit, overlong, key);
    if (sequences.length === 0) dropped++;
    let writer = writers.get(split);
    if (writer === undefined) {
      writer = new ShardWriter({
        ...{ folder, name: options.datasetRef, split, format, shardTokens: options.shardTokens },
        vocabularySize: tokenizer.vocabularySize,
      });
      writers.set(split, writer);
    }
    for (const sequence of sequences) writer.add(sequence);
    documents++;
    textBytes += Buffer.byteLength(text);
  }
  const splits = [...writers]
    .map(([name, writer]) => ({ name, shards: writer.finish() }))
    .filter(({ shards }) => shards.length > 0)
    .sort((a, b) => Number(b.name === "train") - Number(a.name === "train"));
  if (splits.length === 0)
    throw unexpected("invalid_request", "data pack", "a document that is kept", "none");
  const dataset: Dataset = sealed(datasetKind, {
    abi_version: "psionic.dataset.v1",
    key: { dataset_ref: options.datasetRef, version: options.version },
    display_name: `${options.datasetRef} ${options.version}`,
    record_encoding: tokenizer.vocabularySize <= 65536 ? "token_ids_le_u16" : "token_ids_le_u32",
    shard_format: format,
    tokenizer: { ...identity, vocab_size: tokenizer.vocabularySize },
    context_window_tokens: limit ?? null,
    provenance_digest: provenance(selection),
    bos: bos ?? null,
    eos: eos ?? null,
    splits: splits.map(({ name, shards }) => ({
      split_name: name,
      kind: kindOfSplit(name),
      sequence_count: shards.reduce((sum, s) => sum + s.sequence_count, 0),
      token_count: shards.reduce((sum, s) => sum + s.token_count, 0),
      shards,
    })),
    metadata: {
      corpora: selection.manifest.corpora.map(({ corpus_id, licence }) => ({ corpus_id, licence })),
      document_count: documents,
      dropped_document_count: dropped,
      text_bytes: textBytes,
    },
    manifest_digest: "",
  });
  // programs that read a folder without its manifest take every shard in it
  const written = new Set(splits.flatMap(({ shards }) => shards.map(({ path }) => path)));
  for (const name of earlier) if (!written.has(name)) rmSync(join(folder, name));
  writeRecord(join(folder, manifestName), dataset);
  return { dataset, documents, dropped, textBytes };
}

/** Shards that an earlier pack of this name left, which the next one replaces; throws where there are others. */
function earlierShards(folder: string, name: string): string[] {
  const shards = existsSync(folder) ? readdirSync(folder).filter((file) => file.endsWith(".bin")) : [];
  const own = (file: string): boolean => file.startsWith(`${name}_`) && /_\d{6}\.bin$/.test(file);
  const foreign = shards.find((file) => !own(file)) ?? otherName(join(folder, manifestName), name);
  if (shards.length === 0 || foreign === undefined) return shards;
  throw unexpected("invalid_request", folder, `a folder without shards but those of ${name}`, foreign, {
    fix: "Pack into another folder",
  });
}

/** Of names with an underscore only the manifest tells what is name and what split. */
function otherName(path: string, name: string): string | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    // none is there, as after a pack that was ended half-way
    return undefined;
  }
  const found = /"dataset_ref": *"([^"]*)"/.exec(text)?.[1];
  return found === name ? undefined : found;
}

/** What the data were made of, in one digest. */
function provenance({ manifest, splitDigest, duplicateDigest }: Selection): string {
  return sha256(`${manifest.manifest_digest}|${splitDigest ?? ""}|${duplicateDigest ?? ""}`);
}
