import { type PsionicError, unexpected } from "../../core/error.ts";
import type { SamplingParams } from "../protocol.ts";

/** Sampling of one request with every default filled in. */
export type SamplingSettings = {
  /** Greedy: the highest logit after bias and penalties; nothing is drawn. */
  readonly greedy: boolean;
  readonly temperature: number;
  /** 0 = all */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly typicalP: number;
  readonly xtcProbability: number;
  readonly xtcThreshold: number;
  /** Whether one of the three repetition penalties is on. */
  readonly repeats: boolean;
  readonly repeatPenalty: number;
  readonly repeatLastN: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly dryMultiplier: number;
  readonly dryBase: number;
  readonly dryAllowedLength: number;
  readonly dryPenaltyLastN: number;
  readonly drySequenceBreakers: readonly (readonly number[])[];
  readonly logitBias: readonly (readonly [number, number])[];
  readonly seed: number | undefined;
};

/** At or below this temperature a request decodes greedily. */
const greedyTemperature = 1e-6;

/**
 * Fills in defaults and checks ranges. A request is sampled when it sets a temperature above zero, top-k above 1, or a
 * top-p, min-p, typical-p or XTC that cuts something; otherwise, or with temperature 0, it is greedy.
 */
export function samplingSettings(p: SamplingParams, vocabularySize: number): SamplingSettings {
  check(p, vocabularySize);
  const within = (x: number | undefined, top: number) => x !== undefined && x > 0 && x <= top;
  const asked =
    (p.temperature ?? 0) > greedyTemperature ||
    (p.topK ?? 0) > 1 ||
    (within(p.topP, 1) && p.topP !== 1) ||
    within(p.minP, 1) ||
    (within(p.typicalP, 1) && p.typicalP !== 1) ||
    within(p.xtcProbability, 1);
  const cold = p.temperature !== undefined && p.temperature <= greedyTemperature;
  const repeatPenalty = p.repeatPenalty ?? 1;
  const repeatLastN = p.repeatLastN ?? 64;
  const presencePenalty = p.presencePenalty ?? 0;
  const frequencyPenalty = p.frequencyPenalty ?? 0;
  const dryPenaltyLastN = p.dryPenaltyLastN ?? -1;
  const typicalP = p.typicalP ?? 1;
  return {
    greedy: cold || !asked,
    temperature: p.temperature ?? 0.8,
    topK: Math.max(0, Math.min(p.topK ?? 40, vocabularySize)),
    topP: p.topP ?? 0.9,
    minP: p.minP ?? 0,
    typicalP: typicalP === 0 ? 1 : typicalP,
    xtcProbability: p.xtcProbability ?? 0,
    xtcThreshold: p.xtcThreshold ?? 0.1,
    repeats: repeatLastN !== 0 && (repeatPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0),
    repeatPenalty,
    repeatLastN,
    presencePenalty,
    frequencyPenalty,
    dryMultiplier: dryPenaltyLastN === 0 ? 0 : (p.dryMultiplier ?? 0),
    dryBase: p.dryBase ?? 1.75,
    dryAllowedLength: p.dryAllowedLength ?? 2,
    dryPenaltyLastN,
    drySequenceBreakers: (p.drySequenceBreakers ?? []).filter((b) => b.length > 0),
    logitBias: (p.logitBias ?? []).map(([token, bias]) => [token, Math.max(bias, -1e9)] as const),
    seed: p.seed,
  };
}

/** Whether logits are changed before anything is chosen. */
export function changesLogits(settings: SamplingSettings): boolean {
  return settings.logitBias.length > 0 || remembersTokens(settings);
}

/** Whether a token depends on those before it by more than the model. */
export function remembersTokens(settings: SamplingSettings): boolean {
  return settings.repeats || settings.dryMultiplier > 0;
}

type Range = { readonly from: number; readonly to: number; readonly whole?: boolean };

const any: Range = { from: -1e9, to: 1e9 };
const part: Range = { from: 0, to: 1 };
const count: Range = { from: -1, to: 2 ** 31, whole: true };
const ranges = {
  temperature: { from: 0, to: 1e6 },
  topK: { from: -1, to: 2 ** 53, whole: true },
  topP: part,
  minP: part,
  typicalP: part,
  repeatPenalty: { from: 1e-6, to: 1e6 },
  repeatLastN: { from: -(2 ** 31), to: 2 ** 31, whole: true },
  presencePenalty: any,
  frequencyPenalty: any,
  dryMultiplier: { from: 0, to: 1e6 },
  dryBase: { from: 1, to: 1e6 },
  dryAllowedLength: { from: 0, to: 2 ** 31, whole: true },
  dryPenaltyLastN: count,
  xtcProbability: part,
  xtcThreshold: part,
  seed: { from: -(2 ** 63), to: 2 ** 64, whole: true },
} as const satisfies Record<string, Range>;

function check(p: SamplingParams, vocabularySize: number): void {
  for (const name of Object.keys(ranges) as (keyof typeof ranges)[]) {
    const value = p[name];
    if (value === undefined) continue;
    const { from, to, whole }: Range = ranges[name];
    const good = value >= from && value <= to && (!whole || Number.isInteger(value));
    if (!good) throw refused(name, `${whole ? "a whole number" : "a number"} from ${from} to ${to}`, value);
  }
  for (const [token, bias] of p.logitBias ?? []) {
    if (!isToken(token, vocabularySize))
      throw refused("logitBias", `token ids below ${vocabularySize}`, token);
    if (Number.isNaN(bias) || bias > 1e9) throw refused("logitBias", "biases up to 1e9", bias);
  }
  for (const breaker of p.drySequenceBreakers ?? []) {
    const wrong = breaker.find((token) => !isToken(token, vocabularySize));
    if (wrong !== undefined) throw refused("drySequenceBreakers", `token ids below ${vocabularySize}`, wrong);
  }
}

/** The place of the first that is no token id; -1 where all are. Nothing is called for each: prompts are long. */
export function notToken(ids: ArrayLike<number>, vocabularySize: number): number {
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!;
    if ((id | 0) !== id || id < 0 || id >= vocabularySize) return i;
  }
  return -1;
}

export function isToken(token: number, vocabularySize: number): boolean {
  return Number.isInteger(token) && token >= 0 && token < vocabularySize;
}

function refused(param: string, expected: string, got: unknown): PsionicError {
  return unexpected("invalid_request", `sampling ${param}`, expected, got, { details: { param } });
}
