/** The record of duplicate removal: pairs that were found, and documents that are left out because of them. */
import { unexpected } from "../../core/error.ts";
import { isObject } from "../../models/files/strict_json.ts";
import { type RecordKind, readRecord } from "../record.ts";
import type { MinHashSettings } from "./min_hash.ts";

export const duplicateKind: RecordKind = {
  schema: "psionic.data.duplicate_report.v1",
  digestField: "report_digest",
  prefix: "psionic_data_duplicate_report|",
};

export type DuplicatePair = {
  readonly kind: "exact" | "near";
  readonly kept: string;
  readonly kept_id: string;
  readonly kept_split: string;
  readonly dropped: string;
  readonly dropped_id: string;
  readonly dropped_split: string;
  /** Overlap of the two sets of shingles, in basis points. */
  readonly similarity_bps: number;
};

export type DuplicateReport = {
  readonly corpora_digest: string;
  readonly split_digest: string | null;
  readonly scope: "across_splits" | "everywhere";
  readonly settings: MinHashSettings & { readonly threshold_bps: number };
  readonly document_count: number;
  readonly exact_pair_count: number;
  readonly near_pair_count: number;
  readonly dropped_by_split: Readonly<Record<string, number>>;
  readonly pairs: readonly DuplicatePair[];
};

/** What a report on disk drops; it must be about the given corpora and splits. */
export function readDropped(path: string, corporaDigest: string, splitDigest: string | null) {
  const { corpora_digest, split_digest, pairs, report_digest } = readRecord(path, duplicateKind);
  if (corpora_digest !== corporaDigest || split_digest !== splitDigest) {
    throw unexpected(
      "digest_mismatch",
      path,
      `a report on corpora ${corporaDigest} and splits ${splitDigest}`,
      `one on ${corpora_digest} and ${split_digest}`,
    );
  }
  const list: readonly unknown[] = Array.isArray(pairs) ? pairs : [undefined];
  const dropped = list.map((pair) => {
    if (isObject(pair) && typeof pair.dropped === "string") return pair.dropped;
    throw unexpected("file_malformed", path, "pairs that name what is dropped", "one that does not");
  });
  return { dropped: new Set(dropped), digest: String(report_digest) };
}
