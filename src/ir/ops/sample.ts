import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { expectSpec, f32Spec, i32Spec, totalBytes } from "../spec.ts";

/** How the token of one row of logits is chosen; each record is a row of the op's `records`. */
export type SampleRecord = {
  /** Row of the logits. Records that have entries need a row of their own. */
  readonly row: number;
  /** The highest logit, nothing is drawn; the settings from `topK` to `place` do not count. */
  readonly greedy: boolean;
  /** Whether the token's log-probability is wanted: of the logits as they came, before entries and mask. */
  readonly logprob: boolean;
  /** 0 = all */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  /** above 0 */
  readonly temperature: number;
  /** The uniform number in [0, 1) that decides, drawn from the request's own stream. */
  readonly place: number;
  /** Row of the masks, -1 for none. A token whose bit is 0 counts as -inf. */
  readonly mask: number;
  /** The record's entries are `entries` in a row from this one. */
  readonly firstEntry: number;
  readonly entries: number;
  readonly repeatPenalty: number;
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
};

/**
 * A change of one logit: bias is added; with a count above 0 the repeat penalties apply; then `loss` (DRY) is subtracted.
 * A record names each token at most once; biases of one token are added up before.
 */
export type SampleEntry = {
  readonly token: number;
  readonly count: number;
  readonly bias: number;
  readonly loss: number;
};

/** 32-bit words of a record and of an entry, the last dimension of the op's inputs. */
export const sampleRecordWords = 20;
export const sampleEntryWords = 6;

/** Bytes of kernels/cuda/sample.cuh's SampleWork. */
const workBytes = 59408;
/** Longest row of logits. */
const widest = 2 ** 19;

/**
 * The token of each record, equal to what the engine's sampler chooses: entries, mask, top-k, top-p, min-p, temperature,
 * draw in falling order (in order of ids when nothing narrows the row down). Typical-p and XTC are not among it. Sums of
 * whole rows are kept in units of 2^-44 of the highest weight, so where a limit of top-p or the draw lies within about
 * 1e-8 of a token's edge the neighbour may be chosen; lists of up to 2048 tokens are summed as on the host
 * (on Metal, which has no f64, in the same units of weights exact to some 2^-45). A row without
 * a finite highest logit gives that logit's token, 0 when all are NaN. A record out of contract gives -1.
 *
 * logits f32 [R, V] (changed meanwhile and put back), records i32 [N, 20], entries i32 [E, 6], masks i32 [M, ceil(V/32)];
 * ids i32 [N], logprobs f32 [N] (NaN where not asked for). `allGreedy`: no record draws, which takes fewer kernels.
 */
export const sample: Op<{ readonly allGreedy: boolean }> = {
  name: "sample",
  summary: "the next token of each row: biases, penalties, masks, top-k, top-p, min-p, draw",
  backends: ["cuda", "metal"],
  inputs: [
    { name: "logits" },
    { name: "records" },
    { name: "entries", optional: true },
    { name: "masks", optional: true },
  ],
  params: ["allGreedy"],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "f64"] as const),
  ],
  outputs([logits, records, entries, masks]) {
    const width = expectSpec("sample logits", logits, "f32", [-1, -1]).shape[1]!;
    if (width > widest) {
      throw unexpected("invalid_argument", "sample", `rows of at most ${widest} logits`, width);
    }
    const count = expectSpec("sample records", records, "i32", [-1, sampleRecordWords]).shape[0]!;
    if (entries) expectSpec("sample entries", entries, "i32", [-1, sampleEntryWords]);
    if (masks) expectSpec("sample masks", masks, "i32", [-1, Math.ceil(width / 32)]);
    return [i32Spec(count), f32Spec(count)];
  },
  scratchBytes: ([, records, entries]) => records!.shape[0]! * workBytes + 4 * (entries?.shape[0] ?? 0),
  cost: ([logits, records, entries, masks], p) => ({
    flops: (p.allGreedy ? 1 : 8) * records!.shape[0]! * logits!.shape[1]!,
    bytes: (p.allGreedy ? 1 : 3) * 4 * records!.shape[0]! * logits!.shape[1]! + totalBytes(entries, masks),
  }),
  arguments: ([ids, logprobs], [logits, records, entries, masks], p, scratch) => [
    ...[ids!.address, logprobs!.address, logits!.address, records!.address],
    ...[entries!.address, masks!.address, scratch.address],
    ...[records!.shape[0]!, logits!.shape[0]!, logits!.shape[1]!],
    ...[entries!.address === 0 ? 0 : entries!.shape[0]!, masks!.address === 0 ? 0 : masks!.shape[0]!],
    ...[p.allGreedy ? 1 : 0, scratch.bytes],
  ],
};

const greedyFlag = 1;
const logprobFlag = 2;

/** Writes record `index` of a buffer of records (80 bytes each, little-endian). */
export function writeSampleRecord(view: DataView, index: number, r: SampleRecord): void {
  const at = index * sampleRecordWords * 4;
  const flags = (r.greedy ? greedyFlag : 0) | (r.logprob ? logprobFlag : 0);
  const words = [r.row, flags, r.topK, r.mask, r.firstEntry, r.entries];
  words.forEach((word, i) => {
    view.setInt32(at + 4 * i, word, true);
  });
  const draw = [r.temperature, r.topP, r.minP, r.place];
  const penalties = [r.repeatPenalty, r.frequencyPenalty, r.presencePenalty];
  [...draw, ...penalties].forEach((x, i) => {
    view.setFloat64(at + 24 + 8 * i, x, true);
  });
}

/** Writes entry `index` of a buffer of entries (24 bytes each, little-endian). */
export function writeSampleEntry(view: DataView, index: number, e: SampleEntry): void {
  const at = index * sampleEntryWords * 4;
  view.setInt32(at, e.token, true);
  view.setInt32(at + 4, e.count, true);
  view.setFloat64(at + 8, e.bias, true);
  view.setFloat64(at + 16, e.loss, true);
}
