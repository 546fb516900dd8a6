import { UsageError } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { readableBytes, table } from "../../terminal/table.ts";
import { makeCorporaManifest } from "../corpora/manifest.ts";
import { checkPlace, writeRecord } from "../record.ts";
import { checkedName, type DataAction, repeatable, value, withProgress } from "./action.ts";

export const manifest: DataAction = {
  name: "manifest",
  description: "lists corpora with licences, digests and counts.",
  args: {
    corpus: repeatable("FILE", "A file of documents: *.jsonl, *.txt or *.md, also with .zst"),
    licence: repeatable("SPDX", "Licence of each corpus, in their order; one alone is that of all"),
    origin: repeatable("TEXT", "Where each corpus comes from, in their order"),
    split: repeatable(
      "NAME",
      "Split that each corpus belongs to, in their order; - for one that a rule splits",
    ),
    id: { ...value("NAME", "Name of the collection"), default: "corpora" },
    out: value("PATH", "What is written"),
    json: { type: "boolean", description: "Write one JSON document to stdout" },
  },
  examples: [
    "psionic data manifest --corpus docs.jsonl.zst --licence CC0-1.0 --out corpora.json",
    "psionic data manifest --corpus a.jsonl --split train --corpus b.jsonl --split validation --licence MIT --out corpora.json",
  ],
  async run(given) {
    const corpora = given.all("corpus");
    if (corpora.length === 0) throw new UsageError("missing --corpus");
    const out = given.required("out");
    checkPlace(out);
    const each = (name: string, shared: boolean): readonly (string | undefined)[] => {
      const list = given.all(name);
      if (list.length === 1 && shared) return corpora.map(() => list[0]);
      if (list.length !== 0 && list.length !== corpora.length)
        throw new UsageError(
          `expected --${name} once for each of ${corpora.length} corpora, got ${list.length}`,
        );
      return corpora.map((_, i) => list[i]);
    };
    const licences = each("licence", true);
    if (licences.some((licence) => licence === undefined || licence === ""))
      throw new UsageError("missing --licence: every corpus needs one");
    const origins = each("origin", true);
    const splits = each("split", false);
    const inputs = corpora.map((path, i) => {
      const split = splits[i];
      return {
        path,
        licence: licences[i]!,
        ...(origins[i] !== undefined && { origin: origins[i] }),
        ...(split !== undefined && split !== "-" && { split: checkedName(split, "--split") }),
      };
    });
    const id = checkedName(given.required("id"), "--id");
    const made = await withProgress((onBytes) => makeCorporaManifest(id, inputs, out, onBytes));
    writeRecord(out, made);
    if (given.flag("json")) return printJson(made);
    const rows = made.corpora.map((c) => [
      c.corpus_id,
      ...[
        String(c.document_count),
        readableBytes(c.text_bytes),
        c.licence,
        c.split ?? "by rule",
        c.sha256.slice(0, 16),
      ],
    ]);
    await print(table([["corpus", "documents", "text", "licence", "split", "sha256"], ...rows], [1, 2]));
  },
};
