import { expect, test } from "bun:test";
import type { TokenMask } from "../grammar/index.ts";
import type { SamplingParams } from "../protocol.ts";
import { bestAllowed, forbid, isAllowed } from "./allowed.ts";
import { Random } from "./random.ts";
import { type LogitRow, Sampler } from "./sampler.ts";
import { samplingSettings } from "./sampling_settings.ts";
import { argmax, topK } from "./select.ts";

const width = 3000;

function maskOf(allowed: (id: number) => boolean): TokenMask {
  const words = new Int32Array(Math.ceil(width / 32));
  let count = 0;
  for (let id = 0; id < width; id++) {
    if (!allowed(id)) continue;
    words[id >> 5]! |= 1 << (id & 31);
    count += 1;
  }
  return { words, count };
}

function rowOf(logits: Float32Array): LogitRow & { copies: number } {
  const row = {
    copies: 0,
    argmax: () => argmax(logits),
    topK: (k: number) => topK(logits, k),
    copy: () => {
      row.copies += 1;
      return logits.slice();
    },
  };
  return row;
}

const masks: Readonly<Record<string, TokenMask>> = {
  one: maskOf((id) => id === 2047),
  few: maskOf((id) => id % 501 === 3),
  half: maskOf((id) => id % 2 === 1),
  most: maskOf((id) => id % 97 !== 0),
  all: maskOf(() => true),
};

const settings: readonly SamplingParams[] = [
  {},
  { temperature: 0 },
  { temperature: 1, seed: 1 },
  { temperature: 1.5, topK: 0, topP: 1, seed: 2 },
  { temperature: 1, topK: 5, topP: 0.5, seed: 3 },
  { temperature: 1, topK: 0, topP: 0.9, minP: 0.01, seed: 4 },
  { temperature: 1, typicalP: 0.7, seed: 5 },
  { temperature: 1, topK: 2000, seed: 6 },
  { temperature: 1, xtcProbability: 0.5, xtcThreshold: 0.05, seed: 7 },
  { repeatPenalty: 1.3, frequencyPenalty: 0.5 },
  { temperature: 1, repeatPenalty: 1.3, dryMultiplier: 1, seed: 8 },
  { temperature: 1, logitBias: [[2047, 3]], seed: 9 },
];

test("a masked choice is the choice from a row without the other tokens", () => {
  const random = new Random(5, 0);
  for (const params of settings) {
    const chosen = samplingSettings(params, width);
    for (const [name, mask] of Object.entries(masks)) {
      const masked = new Sampler(chosen, 0, params.seed ?? 0, true);
      const plain = new Sampler(chosen, 0, params.seed ?? 0);
      const history = [2047, 3, 504, 2047, 3];
      for (let step = 0; step < 8; step++) {
        const logits = Float32Array.from({ length: width }, () => Math.round(random.next() * 200) / 10);
        const without = logits.slice();
        forbid(without, mask);
        const token = masked.choose(rowOf(logits), history, mask);
        expect(isAllowed(mask, token)).toBe(true);
        expect(`${JSON.stringify(params)} ${name} ${token}`).toBe(
          `${JSON.stringify(params)} ${name} ${plain.choose(rowOf(without), history)}`,
        );
        history.push(token);
      }
    }
  }
});

test("a row is copied only where its highest logits do not decide", () => {
  const logits = Float32Array.from({ length: width }, (_, id) => -id / 100);
  const greedy = new Sampler(samplingSettings({}, width), 0, 0, true);
  const drawn = new Sampler(samplingSettings({ temperature: 1, topK: 40 }, width), 0, 0, true);
  for (const sampler of [greedy, drawn]) {
    const row = rowOf(logits);
    sampler.choose(row, [], masks.all);
    expect(row.copies).toBe(0);
    sampler.choose(row, [], masks.one);
    expect(row.copies).toBe(1);
  }
  const row = rowOf(logits);
  drawn.choose(row, [], masks.half);
  expect(row.copies).toBe(0);
});

test("rows without a number still give an allowed token", () => {
  for (const fill of [Number.NaN, -Infinity]) {
    const logits = new Float32Array(width).fill(fill);
    for (const params of settings) {
      const sampler = new Sampler(samplingSettings(params, width), 0, 1, true);
      for (const mask of Object.values(masks)) {
        expect(isAllowed(mask, sampler.choose(rowOf(logits), [], mask))).toBe(true);
      }
    }
  }
  expect(bestAllowed(new Float32Array(width).fill(Number.NaN), masks.few!)).toBe(3);
});
