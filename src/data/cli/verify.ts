import { UsageError, wholeNumber } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { readableBytes, readableCount } from "../../terminal/table.ts";
import { checkCorpora, corporaKind, readCorporaManifest } from "../corpora/manifest.ts";
import { usualContract } from "../loader/contract.ts";
import { BatchLoader } from "../loader/loader.ts";
import { schemaOf } from "../record.ts";
import { datasetIdentity, type OpenDataset, openDataset, verifyDataset } from "../shards/dataset.ts";
import { type DataAction, type Given, value, withProgress } from "./action.ts";

export const verify: DataAction = {
  name: "verify",
  description: "checks a data set's or a corpora manifest's files against their digests and counts.",
  args: {
    path: value("PATH", "Folder or manifest of a data set, or a corpora manifest (also as an argument)"),
    load: value("N", "Then reads N batches through the loader and says how fast that went"),
    rows: { ...value("N", "Rows of such a batch"), default: "64" },
    length: value("TOKENS", "Tokens of a row; absent: the context of the data set, else 1024"),
    json: { type: "boolean", description: "Write one JSON document to stdout" },
  },
  examples: [
    "psionic data verify dataset",
    "psionic data verify dataset --load 100",
    "psionic data verify corpora.json",
  ],
  async run(given) {
    const path = given.required("path");
    const batches = wholeNumber(given.text("load"), "--load", 1, 1e6);
    for (const name of ["rows", "length"])
      if (batches === undefined && given.all(name).length > 0) throw new UsageError(`--${name} wants --load`);
    if (schemaOf(path) === corporaKind.schema) {
      if (batches !== undefined) throw new UsageError("--load wants a data set");
      return verifyCorpora(path, given.flag("json"));
    }
    const dataset = openDataset(path);
    await withProgress((onBytes) => verifyDataset(dataset, (done, total) => onBytes("shards", done, total)));
    const shards = dataset.splits.flatMap((split) => split.shards);
    const bytes = shards.reduce((sum, s) => sum + s.size_bytes, 0);
    const identity = datasetIdentity(dataset);
    const bare = shards.some(({ sha256 }) => sha256 === null);
    const loading = batches === undefined ? undefined : measureLoading(given, dataset, batches);
    if (given.flag("json")) {
      const checked = {
        verified: true,
        kind: "dataset",
        dataset_identity: identity,
        files: shards.length,
        digests: !bare,
        bytes,
      };
      return printJson({ ...checked, ...(loading && { loading }) });
    }
    const found = bare
      ? "headers and tokens are whole, without a manifest's digests"
      : "all as the manifest says";
    await print(`${identity}: ${shards.length} shards, ${readableBytes(bytes)}: ${found}`);
    if (loading)
      await print(
        `${loading.batches} batches of ${loading.batch_tokens} tokens: ${readableCount(loading.tokens_per_second)} tokens/s read ahead`,
      );
  },
};

async function verifyCorpora(path: string, json: boolean): Promise<void> {
  const manifest = readCorporaManifest(path);
  await checkCorpora(path, manifest);
  const files = manifest.corpora.length;
  const bytes = manifest.corpora.reduce((sum, c) => sum + c.size_bytes, 0);
  if (json) return printJson({ verified: true, kind: "corpora", files, bytes });
  await print(`${files} corpora, ${readableBytes(bytes)}: all as the manifest says`);
}

/** Takes batches as fast as they come: the rate at which reading ahead can go on. */
function measureLoading(given: Given, dataset: OpenDataset, batches: number) {
  const length =
    wholeNumber(given.text("length"), "--length", 1, 2 ** 20) ?? dataset.context_window_tokens ?? 1024;
  const rows = wholeNumber(given.text("rows"), "--rows", 1, 2 ** 16)!;
  const layout = dataset.context_window_tokens === null ? "stream" : "packed";
  const split_name = dataset.splits[0]!.split_name;
  using loader = new BatchLoader(dataset, { ...usualContract, split_name, layout, rows, length });
  // the worker's start is no part of it
  loader.next();
  const begun = performance.now();
  for (let i = 0; i < batches; i++) loader.next();
  const seconds = (performance.now() - begun) / 1000;
  const batch_tokens = rows * length;
  return { layout, batches, batch_tokens, tokens_per_second: Math.round((batches * batch_tokens) / seconds) };
}
