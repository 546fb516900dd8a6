import { UsageError } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { readableBytes, table } from "../../terminal/table.ts";
import { openSelection, selectedDocuments } from "../corpora/selection.ts";
import { splitKind, splitRule } from "../corpora/splits.ts";
import { checkPlace, sealed, writeRecord } from "../record.ts";
import { type DataAction, repeatable, selectionArgs, value, withProgress } from "./action.ts";

export const split: DataAction = {
  name: "split",
  description: "divides documents by a hash of their ids.",
  args: {
    manifest: selectionArgs.manifest,
    share: repeatable("NAME=SHARE", "A held-out split and its share, such as validation=0.05 or test=13/256"),
    salt: value("TEXT", "Hashed with each id; another salt gives another division"),
    out: value("PATH", "What is written"),
    json: { type: "boolean", description: "Write one JSON document to stdout" },
  },
  examples: [
    "psionic data split --manifest corpora.json --share validation=0.05 --share test=0.01 --out splits.json",
  ],
  async run(given) {
    const out = given.required("out");
    checkPlace(out);
    if (given.all("share").length === 0) throw new UsageError("missing --share");
    const shares: Record<string, number> = {};
    for (const text of given.all("share")) {
      const [, name, share, parts] = /^([^=]+)=(\d*\.?\d+)(?:\/(\d+))?$/.exec(text) ?? [];
      if (name === undefined) throw new UsageError(`--share takes NAME=SHARE, got ${text}`);
      if (Object.hasOwn(shares, name)) throw new UsageError(`--share names ${name} twice`);
      const part = Number(share) / Number(parts ?? 1);
      if (!(part > 0 && part < 1))
        throw new UsageError(`--share takes shares above 0 and below 1, got ${text}`);
      shares[name] = part;
    }
    const selection = await openSelection(given.required("manifest"));
    const rule = splitRule(shares, given.text("salt") ?? "");
    const counts = new Map<string, { document_count: number; text_bytes: number }>();
    for (const { split_name } of rule.ranges) counts.set(split_name, { document_count: 0, text_bytes: 0 });
    await withProgress(async (onBytes) => {
      for await (const document of selectedDocuments({ ...selection, rule }, undefined, onBytes)) {
        const count = counts.get(document.split) ?? { document_count: 0, text_bytes: 0 };
        counts.set(document.split, {
          document_count: count.document_count + 1,
          text_bytes: count.text_bytes + Buffer.byteLength(document.text),
        });
      }
    });
    const report = sealed(splitKind, {
      corpora_digest: selection.manifest.manifest_digest,
      ...rule,
      splits: [...counts].map(([split_name, count]) => ({ split_name, ...count })),
      report_digest: "",
    });
    writeRecord(out, report);
    if (given.flag("json")) return printJson(report);
    const rows = report.splits.map((s) => [
      s.split_name,
      String(s.document_count),
      readableBytes(s.text_bytes),
    ]);
    await print(table([["split", "documents", "text"], ...rows], [1, 2]));
  },
};
