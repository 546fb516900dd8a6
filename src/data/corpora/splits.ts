/** Which split a document belongs to: by a hash of its id, so that it never depends on what else is there. */
import { unexpected } from "../../core/error.ts";
import { isObject } from "../../models/files/strict_json.ts";
import { type RecordKind, readRecord } from "../record.ts";
import { namePattern } from "./manifest.ts";

export const splitKind: RecordKind = {
  schema: "psionic.data.split_report.v1",
  digestField: "report_digest",
  prefix: "psionic_data_split_report|",
};

export type SplitKind = "train" | "validation" | "test" | "held_out" | "preference" | "replay" | "custom";

const kinds: readonly SplitKind[] = ["train", "validation", "test", "held_out", "preference", "replay"];

/** `kind` of the dataset manifest by a split's name. */
export const kindOfSplit = (name: string): SplitKind => kinds.find((kind) => kind === name) ?? "custom";

/** Documents whose hash lies in [from, below) of 2^32. */
export type SplitRange = { readonly split_name: string; readonly from: number; readonly below: number };

export type SplitRule = {
  /** Put before the id that is hashed; "" for none. */
  readonly salt: string;
  /** Held-out splits from 0 up, `train` above them. */
  readonly ranges: readonly SplitRange[];
};

/** The first 32 bits of SHA-256 of salt and id. */
export function splitHash(salt: string, id: string): number {
  return Buffer.from(new Bun.CryptoHasher("sha256").update(salt + id).digest()).readUInt32BE(0);
}

/** A rule from shares such as `{validation: 0.05, test: 13/256}`; what is left over is `train`. */
export function splitRule(shares: Readonly<Record<string, number>>, salt = ""): SplitRule {
  const ranges: SplitRange[] = [];
  let from = 0;
  for (const [name, share] of Object.entries(shares)) {
    if (!namePattern.test(name) || name === "train" || !(share > 0 && share < 1))
      throw unexpected(
        "invalid_request",
        "data split",
        "shares such as validation=0.05, above 0 and below 1",
        `${name}=${share}`,
        {
          fix: "train is what the others leave over",
        },
      );
    const below = from + Math.round(share * 2 ** 32);
    ranges.push({ split_name: name, from, below });
    from = below;
  }
  if (from >= 2 ** 32)
    throw unexpected(
      "invalid_request",
      "data split",
      "shares of less than 1 together",
      String(from / 2 ** 32),
    );
  return { salt, ranges: [...ranges, { split_name: "train", from, below: 2 ** 32 }] };
}

export function splitOf(rule: SplitRule, id: string): string {
  const hash = splitHash(rule.salt, id);
  return rule.ranges.find(({ from, below }) => hash >= from && hash < below)!.split_name;
}

/** Everything in `train`. */
export const trainOnly: SplitRule = splitRule({});

/** The rule of a report on disk, which must be about the given corpora. */
export function readSplitRule(path: string, corporaDigest: string): SplitRule & { readonly digest: string } {
  const { salt, ranges, corpora_digest, report_digest } = readRecord(path, splitKind);
  if (corpora_digest !== corporaDigest)
    throw unexpected("digest_mismatch", path, `splits of corpora ${corporaDigest}`, String(corpora_digest));
  const list: readonly unknown[] = Array.isArray(ranges) ? ranges : [];
  let next = 0;
  const whole = list.every((r) => {
    const good = isObject(r) && typeof r.split_name === "string" && r.from === next && Number(r.below) > next;
    if (good) next = Number(r.below);
    return good;
  });
  if (typeof salt !== "string" || !whole || next !== 2 ** 32)
    throw unexpected("file_malformed", path, "ranges that cover 0 to 2^32 once", "others");
  return { salt, ranges: list as SplitRange[], digest: String(report_digest) };
}
