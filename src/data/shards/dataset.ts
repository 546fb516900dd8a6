/** The manifest of a tokenised data set: its splits and shards with counts and digests. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { unexpected } from "../../core/error.ts";
import { isObject } from "../../models/files/strict_json.ts";
import { fileDigest } from "../corpora/manifest.ts";
import type { SplitKind } from "../corpora/splits.ts";
import { type RecordKind, readRecord, sealed } from "../record.ts";
import { ShardFile } from "./shard_file.ts";
import type { WrittenShard } from "./shard_writer.ts";

export const datasetKind: RecordKind = {
  schema: "psion.tokenized_corpus_manifest.v1",
  digestField: "manifest_digest",
  prefix: "psion_tokenized_corpus_manifest|",
};

export const manifestName = "manifest.json";

/** A shard as a data set lists it; without digest where there is no manifest. */
export type Shard = Omit<WrittenShard, "sha256"> & { readonly sha256: string | null };

export type DatasetSplit = {
  readonly split_name: string;
  readonly kind: SplitKind;
  readonly sequence_count: number;
  readonly token_count: number;
  readonly shards: readonly Shard[];
};

export type DatasetTokenizer = {
  readonly family: "byte_pair_encoding" | "sentence_piece";
  /** SHA-256 of the tokenizer's file. */
  readonly tokenizer_digest: string;
  readonly vocab_size: number;
};

export type Dataset = {
  readonly abi_version: string;
  readonly key: { readonly dataset_ref: string; readonly version: string };
  readonly display_name: string;
  readonly record_encoding: "token_ids_le_u16" | "token_ids_le_u32";
  readonly shard_format: "psionic" | "golf";
  readonly tokenizer: DatasetTokenizer;
  readonly context_window_tokens: number | null;
  /** Token that begins a document; that ends one. */
  readonly bos: number | null;
  readonly eos: number | null;
  readonly splits: readonly DatasetSplit[];
  readonly manifest_digest: string;
};

/** `ref@version`. */
export const datasetIdentity = ({ key }: Dataset): string => `${key.dataset_ref}@${key.version}`;

export type OpenDataset = Dataset & { readonly folder: string };

/** Reads a data set's manifest from its folder or file; a folder of golf shards needs none. Shards are not read. */
export function openDataset(place: string): OpenDataset {
  const path = place.endsWith(".json") ? place : join(place, manifestName);
  if (!existsSync(path)) {
    const found = golfFolder(place);
    if (found) return found;
  }
  const value = readRecord(path, datasetKind);
  const { splits, key, tokenizer } = value;
  const wrong = (expected: string): Error => unexpected("file_malformed", path, expected, "another");
  if (!isObject(key) || typeof key.dataset_ref !== "string" || typeof key.version !== "string")
    throw wrong("a key of dataset_ref and version");
  if (!isObject(tokenizer) || !Number.isSafeInteger(tokenizer.vocab_size))
    throw wrong("a tokenizer with vocab_size");
  if (!Array.isArray(splits) || splits.length === 0 || !splits.every(isSplit))
    throw wrong("splits with their shards");
  return { ...(value as unknown as Dataset), folder: dirname(resolve(path)) };
}

/** Shards in the order of their names, as the challenge's files are taken; undefined where there are none. */
function golfFolder(folder: string): OpenDataset | undefined {
  const names = statSync(folder, { throwIfNoEntry: false })?.isDirectory() ? readdirSync(folder).sort() : [];
  const splits = (["train", "val"] as const).flatMap((part): DatasetSplit[] => {
    const shards = names
      .filter((name) => name.endsWith(".bin") && name.includes(`_${part}_`))
      .map((name): Shard => {
        using file = new ShardFile(join(folder, name));
        const { format, tokenCount } = file.header;
        if (format !== "golf")
          throw unexpected("file_malformed", folder, manifestName, "shards that need one, without");
        return {
          ...{
            shard_key: name.replace(/\.bin$/, ""),
            path: name,
            sha256: null,
            size_bytes: 1024 + 2 * tokenCount,
          },
          ...{
            sequence_count: 1,
            token_count: tokenCount,
            min_sequence_tokens: tokenCount,
            max_sequence_tokens: tokenCount,
          },
        };
      });
    const token_count = shards.reduce((sum, s) => sum + s.token_count, 0);
    const split_name = part === "val" ? "validation" : part;
    return shards.length === 0
      ? []
      : [{ split_name, kind: split_name, sequence_count: shards.length, token_count, shards }];
  });
  const first = splits[0]?.shards[0];
  if (first === undefined) return undefined;
  const name = first.shard_key.replace(/_(train|val)_.*$/, "");
  const fields = {
    abi_version: "psionic.dataset.v1",
    key: { dataset_ref: name, version: "files" },
    display_name: `${name}, files without a manifest`,
    record_encoding: "token_ids_le_u16",
    shard_format: "golf",
    tokenizer: { family: "sentence_piece", tokenizer_digest: "", vocab_size: 65536 },
    ...{ context_window_tokens: null, bos: null, eos: null },
    splits,
    manifest_digest: "",
  } as const satisfies Dataset;
  return { ...sealed(datasetKind, fields), folder: resolve(folder) };
}

const counts = ["sequence_count", "token_count", "size_bytes", "max_sequence_tokens"] as const;

function isSplit(split: unknown): boolean {
  return (
    isObject(split) &&
    typeof split.split_name === "string" &&
    Array.isArray(split.shards) &&
    split.shards.every(
      (shard: unknown) =>
        isObject(shard) &&
        typeof shard.shard_key === "string" &&
        typeof shard.sha256 === "string" &&
        // a manifest must not lead out of its folder
        typeof shard.path === "string" &&
        /^[A-Za-z0-9._-]+$/.test(shard.path) &&
        counts.every((name) => Number.isSafeInteger(shard[name])),
    )
  );
}

export function splitNamed(dataset: OpenDataset, name: string): DatasetSplit {
  const found = dataset.splits.find(({ split_name }) => split_name === name);
  if (found) return found;
  const known = dataset.splits.map(({ split_name }) => split_name).join(", ");
  throw unexpected("invalid_request", dataset.folder, `a split of ${known}`, name);
}

/** Opens a shard and holds its header against the manifest; its bytes are not hashed. */
export function openShard(dataset: OpenDataset, shard: Shard): ShardFile {
  const path = join(dataset.folder, shard.path);
  const file = new ShardFile(path);
  const { format, width, tokenCount, sequenceCount } = file.header;
  const expectedWidth = dataset.record_encoding === "token_ids_le_u16" ? 2 : 4;
  const fits =
    format === dataset.shard_format &&
    width === expectedWidth &&
    tokenCount === shard.token_count &&
    (format === "golf" || sequenceCount === shard.sequence_count);
  if (fits) return file;
  file[Symbol.dispose]();
  throw unexpected(
    "file_malformed",
    path,
    `a ${dataset.shard_format} shard of ${shard.token_count} tokens of ${expectedWidth} bytes, as the manifest says`,
    `a ${format} one of ${tokenCount} tokens of ${width} bytes`,
  );
}

/** Hashes every shard, checks headers, lengths and that all tokens are of the vocabulary. */
export async function verifyDataset(
  dataset: OpenDataset,
  onShard: (done: number, total: number) => void = () => {},
): Promise<void> {
  const shards = dataset.splits.flatMap((split) => split.shards);
  const total = shards.reduce((sum, shard) => sum + shard.size_bytes, 0);
  let done = 0;
  for (const split of dataset.splits) {
    const sums = split.shards.reduce(
      (sum, s) => [sum[0]! + s.sequence_count, sum[1]! + s.token_count],
      [0, 0],
    );
    if (sums[0] !== split.sequence_count || sums[1] !== split.token_count)
      throw unexpected(
        "file_malformed",
        dataset.folder,
        `${split.token_count} tokens in split ${split.split_name}`,
        sums[1],
      );
  }
  for (const shard of shards) {
    const path = join(dataset.folder, shard.path);
    {
      using file = openShard(dataset, shard);
      file.starts();
      checkTokens(file, dataset.tokenizer.vocab_size);
    }
    const digest = shard.sha256 === null ? null : await fileDigest(path);
    if (digest !== shard.sha256)
      throw unexpected("digest_mismatch", path, `SHA-256 ${shard.sha256}`, digest, {
        fix: "The shard is damaged; make it again",
      });
    done += shard.size_bytes;
    onShard(done, total);
  }
}

const checkTokensAtOnce = 1 << 20;

function checkTokens(file: ShardFile, vocabularySize: number): void {
  const part = new Int32Array(checkTokensAtOnce);
  for (let from = 0; from < file.header.tokenCount; from += part.length) {
    const count = Math.min(part.length, file.header.tokenCount - from);
    file.copy(from, count, part, 0);
    // u32 values past 2^31 come as negative ones
    for (let i = 0; i < count; i++)
      if (part[i]! < 0 || part[i]! >= vocabularySize)
        throw unexpected(
          "file_malformed",
          file.path,
          `tokens below ${vocabularySize}`,
          `${part[i]! >>> 0} at place ${from + i}`,
        );
  }
}
