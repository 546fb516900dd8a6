import type { SampleEntry, SampleRecord } from "../../ir/ops/sample.ts";
import { repeatCounts, repetitionLosses } from "./penalties.ts";
import type { SamplingSettings } from "./sampling_settings.ts";

/** Whether the op `sample` has every stage that these settings use. */
export function sampledOnDevice(settings: SamplingSettings): boolean {
  return settings.greedy || (settings.typicalP >= 1 && settings.xtcProbability <= 0);
}

/** The record of a row for settings that `sampledOnDevice` takes; `place` is the request's next uniform number. */
export function sampleRecord(
  settings: SamplingSettings,
  at: { readonly row: number; readonly firstEntry: number; readonly entries: number; readonly mask?: number },
  place: number,
  logprob: boolean,
): SampleRecord {
  const { greedy, topK, topP, minP, temperature } = settings;
  const { repeatPenalty, frequencyPenalty, presencePenalty } = settings;
  return {
    ...{ greedy, topK, topP, minP, temperature, repeatPenalty, frequencyPenalty, presencePenalty },
    ...{ mask: -1, ...at, place, logprob },
  };
}

/** What bias, repeat penalties and DRY do to a row after `history`, one entry per token. */
export function sampleEntries(settings: SamplingSettings, history: ArrayLike<number>): SampleEntry[] {
  const entries = new Map<number, SampleEntry>();
  const change = (token: number, part: Partial<SampleEntry>): void => {
    entries.set(token, { ...(entries.get(token) ?? { token, count: 0, bias: 0, loss: 0 }), ...part });
  };
  for (const [token, bias] of settings.logitBias) {
    change(token, { bias: (entries.get(token)?.bias ?? 0) + bias });
  }
  if (settings.repeats) {
    for (const [token, count] of repeatCounts(history, settings)) change(token, { count });
  }
  if (settings.dryMultiplier > 0) {
    for (const [token, loss] of repetitionLosses(history, settings)) change(token, { loss });
  }
  return [...entries.values()];
}
