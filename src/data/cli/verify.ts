import { print, printJson } from "../../terminal/output.ts";
import { readableBytes } from "../../terminal/table.ts";
import { checkCorpora, corporaKind, readCorporaManifest } from "../corpora/manifest.ts";
import { schemaOf } from "../record.ts";
import { datasetIdentity, openDataset, verifyDataset } from "../shards/dataset.ts";
import { type DataAction, value, withProgress } from "./action.ts";

export const verify: DataAction = {
  name: "verify",
  description: "checks a data set's or a corpora manifest's files against their digests and counts.",
  args: {
    path: value("PATH", "Folder or manifest of a data set, or a corpora manifest (also as an argument)"),
    json: { type: "boolean", description: "Write one JSON document to stdout" },
  },
  examples: ["psionic data verify dataset", "psionic data verify corpora.json"],
  async run(given) {
    const path = given.required("path");
    if (schemaOf(path) === corporaKind.schema) {
      const manifest = readCorporaManifest(path);
      await checkCorpora(path, manifest);
      const bytes = manifest.corpora.reduce((sum, c) => sum + c.size_bytes, 0);
      const done = { verified: true, kind: "corpora", files: manifest.corpora.length, bytes };
      return given.flag("json")
        ? printJson(done)
        : print(`${done.files} corpora, ${readableBytes(bytes)}: all as the manifest says`);
    }
    const dataset = openDataset(path);
    await withProgress((onBytes) => verifyDataset(dataset, (done, total) => onBytes("shards", done, total)));
    const shards = dataset.splits.flatMap((split) => split.shards);
    const bytes = shards.reduce((sum, s) => sum + s.size_bytes, 0);
    const identity = datasetIdentity(dataset);
    if (given.flag("json"))
      return printJson({
        verified: true,
        kind: "dataset",
        dataset_identity: identity,
        files: shards.length,
        bytes,
      });
    await print(`${identity}: ${shards.length} shards, ${readableBytes(bytes)}: all as the manifest says`);
  },
};
