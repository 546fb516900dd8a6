import { UsageError, wholeNumber } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { readableBytes, readableCount, table } from "../../terminal/table.ts";
import { corporaKind, readCorporaManifest } from "../corpora/manifest.ts";
import { packingPlan } from "../packing.ts";
import { schemaOf } from "../record.ts";
import { datasetIdentity, type OpenDataset, openDataset, openShard, splitNamed } from "../shards/dataset.ts";
import { ShardFile } from "../shards/shard_file.ts";
import { openTokenizerFolder } from "../tokenizer_folder.ts";
import { type DataAction, value } from "./action.ts";

const longestSequence = 1 << 20;

export const show: DataAction = {
  name: "show",
  description: "shows a data set, a shard or a corpora manifest, or one sequence as tokens and text.",
  args: {
    path: value("PATH", "Folder, manifest or shard (also as an argument)"),
    row: value("TOKENS", "How full rows of so many tokens get, of each split"),
    sequence: value("N", "One sequence of a data set, from 0"),
    split: value("NAME", "The split of --sequence; absent: train"),
    tokenizer: value("PATH", "Shows the text of --sequence too"),
    json: { type: "boolean", description: "Write one JSON document to stdout" },
  },
  examples: ["psionic data show dataset", "psionic data show dataset --sequence 3 --tokenizer tokenizer"],
  async run(given) {
    const path = given.required("path");
    const sequence = wholeNumber(given.text("sequence"), "--sequence", 0);
    if (sequence !== undefined && given.all("row").length > 0)
      throw new UsageError("--row or --sequence, not both");
    for (const name of ["split", "tokenizer"])
      if (sequence === undefined && given.all(name).length > 0)
        throw new UsageError(`--${name} wants --sequence`);
    if (path.endsWith(".bin") || schemaOf(path) === corporaKind.schema) {
      if (sequence !== undefined || given.all("row").length > 0)
        throw new UsageError("--sequence and --row want a data set");
      return path.endsWith(".bin")
        ? showShard(path, given.flag("json"))
        : showCorpora(path, given.flag("json"));
    }
    const dataset = openDataset(path);
    if (sequence !== undefined) {
      const place = given.text("tokenizer");
      return showSequence(dataset, given.text("split") ?? "train", sequence, place, given.flag("json"));
    }
    const row = wholeNumber(given.text("row"), "--row", 1, 2 ** 24);
    if (row !== undefined) return showFill(dataset, row, given.flag("json"));
    const { folder: _, ...record } = dataset;
    if (given.flag("json")) return printJson(record);
    const { tokenizer, shard_format, record_encoding, context_window_tokens } = dataset;
    const rows = dataset.splits.flatMap((split) =>
      split.shards.map((s) => [
        ...[split.split_name, s.path, String(s.sequence_count), readableCount(s.token_count)],
        ...[
          `${s.min_sequence_tokens} to ${s.max_sequence_tokens}`,
          readableBytes(s.size_bytes),
          s.sha256?.slice(0, 16) ?? "none",
        ],
      ]),
    );
    await print(
      `${datasetIdentity(dataset)}: ${shard_format} shards of ${record_encoding}, vocabulary ${tokenizer.vocab_size} (${tokenizer.family}), context ${context_window_tokens ?? "open"}`,
    );
    await print(
      table([["split", "shard", "sequences", "tokens", "lengths", "size", "sha256"], ...rows], [2, 3, 4, 5]),
    );
  },
};

/** Sequences of all shards of a split, one after another, packed into rows. */
async function showFill(dataset: OpenDataset, row: number, json: boolean): Promise<void> {
  if (dataset.shard_format === "golf") throw new UsageError("golf shards are one stream: every row is full");
  const rows = dataset.splits.map(({ split_name, shards }) => {
    const lengths = shards.flatMap((shard) => {
      using file = openShard(dataset, shard);
      const starts = file.starts();
      return Array.from({ length: starts.length - 1 }, (_, i) => starts[i + 1]! - starts[i]!);
    });
    const plan = packingPlan(lengths, {
      packing_mode: "pack_into_context_window",
      ...{ max_row_tokens: row, max_batch_tokens: row, max_rows_per_batch: 1, pad_to_multiple_of: row },
      overlong_sequence_posture: "drop",
    });
    const { row_count, token_count, fill_bps, dropped } = plan;
    return { split_name, row_count, token_count, fill_bps, dropped_sequence_count: dropped.length };
  });
  if (json) return printJson(rows);
  const cells = rows.map((r) => [
    ...[
      r.split_name,
      String(r.row_count),
      readableCount(r.token_count),
      `${(r.fill_bps / 100).toFixed(1)} %`,
    ],
    String(r.dropped_sequence_count),
  ]);
  await print(table([["split", "rows", "tokens", "full", "too long"], ...cells], [1, 2, 3, 4]));
}

async function showShard(path: string, json: boolean): Promise<void> {
  using file = new ShardFile(path);
  file.starts();
  const { format, width, sequenceCount, tokenCount, vocabularySize } = file.header;
  const sequences = format === "golf" ? null : sequenceCount;
  const shown = {
    format,
    token_bytes: width,
    sequence_count: sequences,
    token_count: tokenCount,
    vocab_size: vocabularySize || null,
  };
  if (json) return printJson(shown);
  await print(
    Object.entries(shown)
      .map(([key, v]) => `${key}=${v ?? "not stated"}`)
      .join("\n"),
  );
}

async function showCorpora(path: string, json: boolean): Promise<void> {
  const manifest = readCorporaManifest(path);
  if (json) return printJson(manifest);
  const rows = manifest.corpora.map((c) => [
    ...[
      c.corpus_id,
      c.path,
      String(c.document_count),
      readableBytes(c.text_bytes),
      c.licence,
      c.split ?? "by rule",
    ],
  ]);
  await print(table([["corpus", "file", "documents", "text", "licence", "split"], ...rows], [2, 3]));
}

async function showSequence(
  dataset: OpenDataset,
  splitName: string,
  index: number,
  place: string | undefined,
  json: boolean,
): Promise<void> {
  const split = splitNamed(dataset, splitName);
  if (dataset.shard_format === "golf")
    throw new UsageError("golf shards are one stream: --sequence wants psionic shards");
  if (index >= split.sequence_count)
    throw new UsageError(`--sequence takes 0 to ${split.sequence_count - 1} in ${splitName}, got ${index}`);
  let at = index;
  const shard = split.shards.find((s) => {
    if (at < s.sequence_count) return true;
    at -= s.sequence_count;
    return false;
  })!;
  using file = openShard(dataset, shard);
  const starts = file.starts();
  const tokens = new Int32Array(Math.min(longestSequence, starts[at + 1]! - starts[at]!));
  file.copy(starts[at]!, tokens.length, tokens, 0);
  const opened = place === undefined ? undefined : openTokenizerFolder(place);
  if (opened && opened.identity.tokenizer_digest !== dataset.tokenizer.tokenizer_digest)
    throw new UsageError(
      `--tokenizer takes the one of this data set, ${dataset.tokenizer.tokenizer_digest.slice(0, 16)}`,
    );
  const text = opened?.tokenizer.decode(tokens, { special: true });
  if (json)
    return printJson({
      split_name: splitName,
      sequence: index,
      tokens: [...tokens],
      ...(text !== undefined && { text }),
    });
  await print(text ?? tokens.join(" "));
}
