import { decimalNumber, list, wholeNumber } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { duplicateKind } from "../corpora/duplicate_report.ts";
import { findDuplicates } from "../corpora/duplicates.ts";
import { usualMinHash } from "../corpora/min_hash.ts";
import { openSelection } from "../corpora/selection.ts";
import { checkPlace, sealed, writeRecord } from "../record.ts";
import { type DataAction, selectionArgs, value, withProgress } from "./action.ts";

const shownPairs = 20;

export const dedup: DataAction = {
  name: "dedup",
  description:
    "finds equal and nearly equal documents, across splits or everywhere, and says which are left out.",
  args: {
    manifest: selectionArgs.manifest,
    splits: selectionArgs.splits,
    threshold: { ...value("SHARE", "Least overlap of shingles of near duplicates"), default: "0.8" },
    scope: {
      type: "enum",
      options: list("across_splits", "everywhere"),
      default: "across_splits",
      description: "Compare documents of different splits only, or all",
    },
    words: { ...value("N", "Words of a shingle"), default: String(usualMinHash.shingleWords) },
    bands: { ...value("N", "Bands of the MinHash signature"), default: String(usualMinHash.bands) },
    rows: { ...value("N", "Rows of a band"), default: String(usualMinHash.rows) },
    seed: { ...value("N", "Seed of the hashes"), default: String(usualMinHash.seed) },
    out: value("PATH", "What is written"),
    json: { type: "boolean", description: "Write one JSON document to stdout" },
  },
  examples: ["psionic data dedup --manifest corpora.json --splits splits.json --out duplicates.json"],
  async run(given) {
    const out = given.required("out");
    checkPlace(out);
    const number = (name: string, most: number): number =>
      wholeNumber(given.text(name), `--${name}`, 1, most)!;
    const options = {
      minHash: {
        shingleWords: number("words", 64),
        bands: number("bands", 256),
        rows: number("rows", 64),
        seed: wholeNumber(given.text("seed"), "--seed", 0, 2 ** 32 - 1)!,
      },
      threshold: decimalNumber(given.text("threshold"), "--threshold", 0.01, 1)!,
      scope: given.text("scope") === "everywhere" ? "everywhere" : "across_splits",
    } as const;
    const selection = await openSelection(given.required("manifest"), given.text("splits"));
    const found = await withProgress((onBytes) => findDuplicates(selection, options, onBytes));
    const report = sealed(duplicateKind, { ...found, report_digest: "" });
    writeRecord(out, report);
    if (given.flag("json")) return printJson(report);
    const pairs = found.pairs
      .slice(0, shownPairs)
      .map(
        (p) =>
          `${p.kind} ${(p.similarity_bps / 100).toFixed(1)} %  ${p.dropped_split}/${p.dropped_id}  is  ${p.kept_split}/${p.kept_id}`,
      );
    const more = found.pairs.length - pairs.length;
    const head = `${found.document_count} documents, ${found.exact_pair_count} exact and ${found.near_pair_count} near duplicates left out`;
    await print([head, ...pairs, ...(more > 0 ? [`and ${more} more in ${out}`] : [])].join("\n"));
  },
};
