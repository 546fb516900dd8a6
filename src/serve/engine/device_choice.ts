import {
  type SampleEntry,
  sampleEntryWords,
  sampleRecordWords,
  writeSampleEntry,
  writeSampleRecord,
} from "../../ir/ops/sample.ts";
import type { Device } from "../../runtime/device.ts";
import { sample } from "../../runtime/functions.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import type { TokenChoice } from "./batch.ts";
import { sampleRecord } from "./sample_record.ts";
import { type SamplingSettings, samplingSettings } from "./sampling_settings.ts";

/** What the device chose: ids i32 and, unless they are the likeliest tokens, log-probabilities f32. */
export type ChosenTokens = { readonly ids: Tensor; readonly logprobs?: Tensor | undefined };

/** Whether a choice is the likeliest token and nothing else. */
export function isPlain({ settings, entries, mask }: TokenChoice): boolean {
  return settings.greedy && !entries && !mask;
}

/** Records of choices that take neither entries nor masks, i32 [N, 20] as one array. */
export function recordsOf(choices: readonly TokenChoice[]): Int32Array {
  const none = { firstEntry: 0, entries: 0 };
  return packed(choices, ({ row, settings, place, logprob }) =>
    sampleRecord(settings, { row, ...none }, place, logprob),
  );
}

/** Records of rows that nobody uses, from `first` to `end`: the likeliest token. */
export function spareRecords(first: number, end: number): Int32Array {
  const rows = Array.from({ length: end - first }, (_, i) => first + i);
  return packed(rows, (row) => sampleRecord(greedy, { row, firstEntry: 0, entries: 0 }, 0, false));
}

const greedy: SamplingSettings = samplingSettings({ temperature: 0 }, 1);

/** Chooses a token of `logits` for each choice; entries and masks are asked for now, when the logits are under way. */
export function chooseTokens(
  device: Device,
  logits: Tensor,
  choices: readonly TokenChoice[],
): Required<ChosenTokens> {
  const entries: SampleEntry[] = [];
  const masks: Int32Array[] = [];
  const records = packed(choices, ({ row, settings, place, logprob, ...more }) => {
    const own = more.entries?.() ?? [];
    const mask = more.mask?.();
    const at = { row, firstEntry: entries.length, entries: own.length, mask: mask ? masks.length : -1 };
    for (const entry of own) entries.push(entry);
    if (mask) masks.push(mask);
    return sampleRecord(settings, at, place, logprob);
  });
  const { ids, logprobs } = sample(
    logits,
    device.fromHost("i32", [choices.length, sampleRecordWords], records),
    entries.length > 0
      ? device.fromHost("i32", [entries.length, sampleEntryWords], packedEntries(entries))
      : undefined,
    masks.length > 0 ? device.fromHost("i32", [masks.length, masks[0]!.length], stacked(masks)) : undefined,
    choices.every(({ settings }) => settings.greedy),
  );
  return { ids, logprobs };
}

function packed<T>(items: readonly T[], recordOf: (item: T) => ReturnType<typeof sampleRecord>): Int32Array {
  const words = new Int32Array(items.length * sampleRecordWords);
  const view = new DataView(words.buffer);
  items.forEach((item, i) => {
    writeSampleRecord(view, i, recordOf(item));
  });
  return words;
}

function packedEntries(entries: readonly SampleEntry[]): Int32Array {
  const words = new Int32Array(entries.length * sampleEntryWords);
  const view = new DataView(words.buffer);
  entries.forEach((entry, i) => {
    writeSampleEntry(view, i, entry);
  });
  return words;
}

function stacked(masks: readonly Int32Array[]): Int32Array {
  const words = masks[0]!.length;
  const all = new Int32Array(masks.length * words);
  masks.forEach((mask, i) => {
    all.set(mask, i * words);
  });
  return all;
}
