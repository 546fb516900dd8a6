/** The documents of a data set: corpora, a split rule, and what duplicate removal has dropped, as one stream. */
import { statSync } from "node:fs";
import { basename } from "node:path";
import { unexpected } from "../../core/error.ts";
import { readDocuments } from "./document.ts";
import { readDropped } from "./duplicate_report.ts";
import {
  type CorporaManifest,
  checkCorpora,
  corpusPath,
  type OnBytes,
  readCorporaManifest,
} from "./manifest.ts";
import { readSplitRule, type SplitRule, splitOf, trainOnly } from "./splits.ts";

export type Selection = {
  readonly manifestPath: string;
  readonly manifest: CorporaManifest;
  readonly rule: SplitRule;
  /** `corpus_id:line` of documents that are left out. */
  readonly dropped: ReadonlySet<string>;
  /** Digests of the records that made it; null where there was none. */
  readonly splitDigest: string | null;
  readonly duplicateDigest: string | null;
};

export type SelectedDocument = {
  /** Names one document of the data set: `corpus_id:line`. */
  readonly key: string;
  readonly id: string;
  readonly corpus: string;
  readonly split: string;
  readonly text: string;
};

/** Reads the records, checks that they belong together and that the files are those of the manifest. */
export async function openSelection(
  manifestPath: string,
  splitsPath?: string,
  duplicatesPath?: string,
): Promise<Selection> {
  const manifest = readCorporaManifest(manifestPath);
  await checkCorpora(manifestPath, manifest);
  const rule = splitsPath === undefined ? undefined : readSplitRule(splitsPath, manifest.manifest_digest);
  const splitDigest = rule?.digest ?? null;
  const duplicates =
    duplicatesPath === undefined
      ? undefined
      : readDropped(duplicatesPath, manifest.manifest_digest, splitDigest);
  return {
    manifestPath,
    manifest,
    rule: rule ?? trainOnly,
    dropped: duplicates?.dropped ?? new Set(),
    splitDigest,
    duplicateDigest: duplicates?.digest ?? null,
  };
}

/** Every document that is not dropped, of the named splits where some are named, in the order of the corpora. */
export async function* selectedDocuments(
  selection: Selection,
  splits?: readonly string[],
  onBytes: OnBytes = () => {},
): AsyncGenerator<SelectedDocument> {
  const { manifest, manifestPath, rule, dropped } = selection;
  for (const corpus of manifest.corpora) {
    if (corpus.split !== null && splits && !splits.includes(corpus.split)) continue;
    const path = corpusPath(manifestPath, corpus);
    const total = statSync(path).size;
    let read = 0;
    const heard = (count: number): void => {
      read += count;
      onBytes(basename(path), read, total);
    };
    for await (const { id, text, line } of readDocuments(path, heard)) {
      const key = `${corpus.corpus_id}:${line}`;
      const split = corpus.split ?? splitOf(rule, id);
      if (dropped.has(key) || (splits && !splits.includes(split))) continue;
      yield { key, id, corpus: corpus.corpus_id, split, text };
    }
  }
}

/** Names of all splits that can hold a document, held-out ones first and `train` last. */
export function splitNames(selection: Selection): string[] {
  const names = new Set<string>();
  for (const { split } of selection.manifest.corpora)
    if (split !== null && split !== "train") names.add(split);
  const ruled = selection.manifest.corpora.some(({ split }) => split === null);
  if (ruled) for (const { split_name } of selection.rule.ranges) names.add(split_name);
  names.delete("train");
  const train = ruled || selection.manifest.corpora.some(({ split }) => split === "train");
  return [...names, ...(train ? ["train"] : [])];
}

/** Throws where a named split is none of the selection's. */
export function checkSplit(selection: Selection, name: string, where: string): void {
  const known = splitNames(selection);
  if (!known.includes(name)) throw unexpected("invalid_request", where, `one of ${known.join(", ")}`, name);
}
