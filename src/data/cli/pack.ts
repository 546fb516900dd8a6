import { join, resolve } from "node:path";
import type { Tokenizer } from "../../models/tokenizer/index.ts";
import { list, UsageError, wholeNumber } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { readableBytes, readableCount, table } from "../../terminal/table.ts";
import { openSelection } from "../corpora/selection.ts";
import { pack } from "../pack.ts";
import { checkPlace } from "../record.ts";
import { manifestName } from "../shards/dataset.ts";
import { openTokenizerFolder } from "../tokenizer_folder.ts";
import { checkedName, type DataAction, selectionArgs, value, withProgress } from "./action.ts";

export const packAction: DataAction = {
  name: "pack",
  description: "writes documents as token shards with a manifest.",
  args: {
    ...selectionArgs,
    tokenizer: value("PATH", "Folder of data train-tokenizer, a tokenizer.json or a SentencePiece .model"),
    name: { ...value("NAME", "Name of the data set and of its shards"), default: "dataset" },
    version: { ...value("NAME", "Version of the data set"), default: "v1" },
    format: {
      type: "enum",
      options: list("psionic", "golf"),
      default: "psionic",
      description: "Shards with sequences, or one stream of u16 with magic 20240520",
    },
    context: value("TOKENS", "psionic: tokens of the longest sequence; absent: documents stay whole"),
    overlong: {
      type: "enum",
      options: list("split", "drop", "refuse"),
      description: "psionic: what becomes of longer documents; absent: split",
    },
    "shard-tokens": value("N", "Tokens of a shard; absent: 100000000"),
    bos: value("TOKEN", "Token that begins every document; - for none; absent: the tokenizer's"),
    eos: value("TOKEN", "Token that ends every document; - for none; absent: the tokenizer's, none for golf"),
    out: value("FOLDER", "What is written"),
    json: { type: "boolean", description: "Write one JSON document to stdout" },
  },
  examples: [
    "psionic data pack --manifest corpora.json --tokenizer tokenizer --context 1024 --out dataset",
    "psionic data pack --manifest corpora.json --tokenizer tokenizer --format golf --name docs --out dataset",
  ],
  async run(given) {
    const out = given.required("out");
    checkPlace(join(out, manifestName));
    const golf = given.text("format") === "golf";
    for (const name of golf ? ["context", "overlong"] : [])
      if (given.all(name).length > 0) throw new UsageError(`--format golf takes no --${name}`);
    const contextWindow = wholeNumber(given.text("context"), "--context", 2);
    if (given.all("overlong").length > 0 && contextWindow === undefined)
      throw new UsageError("--overlong wants --context");
    const name = checkedName(given.required("name"), "--name");
    const version = checkedName(given.required("version"), "--version");
    const shardTokens = wholeNumber(given.text("shard-tokens"), "--shard-tokens", 1) ?? 100_000_000;
    const { tokenizer, identity } = openTokenizerFolder(given.required("tokenizer"));
    const bos = endToken(tokenizer, given.text("bos"), "--bos", tokenizer.bos);
    const eos = endToken(
      tokenizer,
      given.text("eos"),
      "--eos",
      golf || tokenizer.eos === bos ? undefined : tokenizer.eos,
    );
    const selection = await openSelection(
      given.required("manifest"),
      given.text("splits"),
      given.text("duplicates"),
    );
    const packed = await withProgress((onBytes) =>
      pack(
        selection,
        tokenizer,
        identity,
        resolve(out),
        {
          ...{ datasetRef: name, version, format: golf ? "golf" : "psionic", shardTokens, bos, eos },
          ...(contextWindow !== undefined && { contextWindow }),
          overlong: overlongOf(given.text("overlong")),
        },
        onBytes,
      ),
    );
    if (given.flag("json")) return printJson(packed.dataset);
    const rows = packed.dataset.splits.map((s) => [
      s.split_name,
      ...[String(s.sequence_count), readableCount(s.token_count), String(s.shards.length)],
    ]);
    const tokens = packed.dataset.splits.reduce((sum, s) => sum + s.token_count, 0);
    await print(table([["split", "sequences", "tokens", "shards"], ...rows], [1, 2, 3]));
    await print(
      `${packed.documents} documents, ${packed.dropped} dropped, ${readableBytes(packed.textBytes)}, ${(packed.textBytes / tokens).toFixed(2)} bytes a token: ${out}`,
    );
  },
};

const overlongOf = (text: string | undefined): "split" | "drop" | "refuse" =>
  text === "drop" || text === "refuse" ? text : "split";

function endToken(
  tokenizer: Tokenizer,
  asked: string | undefined,
  option: string,
  own: number | undefined,
): number | undefined {
  if (asked === undefined) return own;
  if (asked === "-") return undefined;
  const id = tokenizer.idOf(asked);
  if (id === undefined) throw new UsageError(`${option} takes a token of the vocabulary, got ${asked}`);
  return id;
}
