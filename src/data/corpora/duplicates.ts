/** Finds exact and near duplicates and decides which of two is kept. */
import { sha256 } from "../../core/digest.ts";
import { unexpected } from "../../core/error.ts";
import type { DuplicatePair, DuplicateReport } from "./duplicate_report.ts";
import type { OnBytes } from "./manifest.ts";
import { jaccard, MinHashIndex, type MinHashSettings, shinglesOf } from "./min_hash.ts";
import { type Selection, selectedDocuments, splitNames } from "./selection.ts";

export type DuplicateOptions = {
  readonly minHash: MinHashSettings;
  /** Least overlap of near duplicates, above 0 and at most 1. */
  readonly threshold: number;
  readonly scope: DuplicateReport["scope"];
};

type Seen = {
  readonly key: string;
  readonly id: string;
  readonly split: string;
  /** SHA-256 of the text with its white space evened out. */
  readonly digest: string;
  readonly shingles: Uint32Array;
};

/**
 * Goes through held-out documents first and training documents last, each kept unless it equals one that is kept: so
 * evaluation stays as it is and training loses what it would have leaked. Within a split the earlier document is kept.
 */
export async function findDuplicates(
  selection: Selection,
  options: DuplicateOptions,
  onBytes: OnBytes = () => {},
): Promise<DuplicateReport> {
  checkOptions(options);
  const { minHash, threshold, scope } = options;
  const documents = await readAll(selection, minHash, onBytes);
  const index = new MinHashIndex(minHash);
  const indexed: Seen[] = [];
  const byDigest = new Map<string, Seen[]>();
  const pairs: DuplicatePair[] = [];
  const inScope = (a: Seen, b: Seen): boolean => scope === "everywhere" || a.split !== b.split;
  for (const document of documents) {
    const twin = byDigest.get(document.digest)?.find((other) => inScope(document, other));
    // dropped documents are not indexed: whatever resembles them is judged by what is kept
    if (twin !== undefined) {
      pairs.push(pairOf("exact", twin, document, 1));
      continue;
    }
    const near = nearest(document, index, indexed, threshold, inScope);
    if (near !== undefined) {
      pairs.push(pairOf("near", near.other, document, near.similarity));
      continue;
    }
    index.add(document.shingles);
    indexed.push(document);
    byDigest.set(document.digest, [...(byDigest.get(document.digest) ?? []), document]);
  }
  const droppedBySplit: Record<string, number> = {};
  for (const { dropped_split } of pairs)
    droppedBySplit[dropped_split] = (droppedBySplit[dropped_split] ?? 0) + 1;
  return {
    corpora_digest: selection.manifest.manifest_digest,
    split_digest: selection.splitDigest,
    scope,
    settings: { ...minHash, threshold_bps: Math.round(threshold * 10000) },
    document_count: documents.length,
    exact_pair_count: pairs.filter(({ kind }) => kind === "exact").length,
    near_pair_count: pairs.filter(({ kind }) => kind === "near").length,
    dropped_by_split: droppedBySplit,
    pairs,
  };
}

function checkOptions({ minHash, threshold }: DuplicateOptions): void {
  const whole = (n: number, most: number): boolean => Number.isInteger(n) && n >= 1 && n <= most;
  if (!(whole(minHash.shingleWords, 64) && whole(minHash.bands, 256) && whole(minHash.rows, 64)))
    throw unexpected(
      "invalid_request",
      "data dedup",
      "1 to 64 words, 1 to 256 bands of 1 to 64 rows",
      JSON.stringify(minHash),
    );
  if (!(threshold > 0 && threshold <= 1))
    throw unexpected("invalid_request", "data dedup", "a threshold above 0 and at most 1", threshold);
}

async function readAll(selection: Selection, minHash: MinHashSettings, onBytes: OnBytes): Promise<Seen[]> {
  const order = splitNames(selection);
  const bySplit = new Map<string, Seen[]>(order.map((name) => [name, []]));
  for await (const { key, id, split, text } of selectedDocuments(selection, undefined, onBytes)) {
    const digest = sha256(text.replace(/\s+/gu, " ").trim());
    bySplit.get(split)!.push({ key, id, split, digest, shingles: shinglesOf(text, minHash.shingleWords) });
  }
  return order.flatMap((name) => bySplit.get(name)!);
}

/** The most similar kept document at or above the threshold; the earliest among equals. */
function nearest(
  document: Seen,
  index: MinHashIndex,
  indexed: readonly Seen[],
  threshold: number,
  inScope: (a: Seen, b: Seen) => boolean,
): { readonly other: Seen; readonly similarity: number } | undefined {
  let best: { readonly other: Seen; readonly similarity: number } | undefined;
  for (const number of index.candidates(document.shingles)) {
    const other = indexed[number]!;
    if (!inScope(document, other)) continue;
    const similarity = jaccard(document.shingles, other.shingles);
    if (similarity >= threshold && similarity > (best?.similarity ?? 0)) best = { other, similarity };
  }
  return best;
}

function pairOf(kind: DuplicatePair["kind"], kept: Seen, dropped: Seen, similarity: number): DuplicatePair {
  return {
    kind,
    ...{ kept: kept.key, kept_id: kept.id, kept_split: kept.split },
    ...{ dropped: dropped.key, dropped_id: dropped.id, dropped_split: dropped.split },
    similarity_bps: Math.round(similarity * 10000),
  };
}
