/** psi_sample against the engine's sampler, in a library with memory of its own. */
import { expect, test } from "bun:test";
import {
  type SampleEntry,
  type SampleRecord,
  sampleEntryWords,
  sampleRecordWords,
  writeSampleEntry,
  writeSampleRecord,
} from "../src/ir/ops/sample.ts";
import { Random } from "../src/serve/engine/random.ts";
import { sampledOnDevice, sampleEntries, sampleRecord } from "../src/serve/engine/sample_record.ts";
import { makeSamplers } from "../src/serve/engine/sampler.ts";
import { samplingSettings } from "../src/serve/engine/sampling_settings.ts";
import { argmax, logSumExp, topK } from "../src/serve/engine/select.ts";
import type { SamplingParams } from "../src/serve/protocol.ts";
import { floats, random } from "./cpu/library.ts";
import { ints } from "./cpu/twins.ts";
import type { Call, DeviceMemory } from "./device_memory.ts";

const workBytes = 59408;

type Input = {
  readonly logits: Float32Array;
  readonly width: number;
  readonly records: readonly SampleRecord[];
  readonly entries?: readonly SampleEntry[];
  readonly masks?: Int32Array;
  readonly allGreedy?: boolean;
};

type Shape = "peaked" | "flat" | "tied" | "equal" | "holes";

/** Logits as models make them, and the unpleasant kinds. */
function row(width: number, seed: number, shape: Shape): Float32Array {
  const next = random(seed);
  const uniform = () => next() / 2 ** 32;
  const out = floats(width);
  for (let i = 0; i < width; i++) {
    const bell = uniform() + uniform() + uniform() + uniform() - 2;
    if (shape === "peaked") out[i] = 5 * bell - 4;
    else if (shape === "flat") out[i] = 0.3 * bell;
    else if (shape === "tied") out[i] = Math.round(3 * bell) / 2;
    else if (shape === "equal") out[i] = 1.5;
    else out[i] = uniform() < 0.3 ? (uniform() < 0.5 ? Number.NaN : -Infinity) : 6 * bell;
  }
  if (shape === "peaked") for (let i = 0; i < 30; i++) out[next() % width] = 6 + 6 * uniform();
  return out;
}

function stack(rows: readonly Float32Array[], width: number): Float32Array {
  const out = floats(rows.length * width);
  for (const [r, values] of rows.entries()) out.set(values, r * width);
  return out;
}

/** The host's token for a row. */
function hostToken(params: SamplingParams, values: Float32Array, history: number[]): number {
  const sampler = makeSamplers(params, 1, values.length)[0]!;
  const read = {
    argmax: () => argmax(values),
    topK: (k: number) => topK(values, k),
    copy: () => values.slice(),
  };
  return sampler.choose(read, history);
}

type Case = { readonly params: SamplingParams; readonly values: Float32Array; readonly history: number[] };

const settingsOf: readonly (readonly [string, SamplingParams])[] = [
  ["defaults of a sampled request", { temperature: 1 }],
  ["top-k alone, hot", { temperature: 3, topK: 7, topP: 1 }],
  ["a large top-k", { temperature: 1.5, topK: 1000, topP: 0.97 }],
  ["a top-k that the host does not rank", { temperature: 1.5, topK: 1500, topP: 1, minP: 0.001 }],
  ["top-p over the row", { temperature: 0.7, topK: 0, topP: 0.9 }],
  ["top-p near 1, hot", { temperature: 2, topK: 0, topP: 0.9999 }],
  ["min-p alone", { temperature: 1.2, topK: 0, topP: 1, minP: 0.02 }],
  ["all three", { temperature: 0.9, topK: 50, topP: 0.8, minP: 0.05 }],
  ["nothing narrows", { temperature: 1, topK: 0, topP: 1 }],
  ["nothing narrows, hot", { temperature: 40, topK: 0, topP: 1 }],
  ["cold", { temperature: 0.05, topK: 0, topP: 0.999 }],
  ["tiny top-p", { temperature: 1, topK: 0, topP: 1e-9 }],
  ["greedy", { temperature: 0 }],
];
const penalties: SamplingParams = {
  repeatPenalty: 1.3,
  frequencyPenalty: 0.4,
  presencePenalty: 0.25,
  repeatLastN: 40,
  dryMultiplier: 0.8,
  logitBias: [
    [3, 4.5],
    [7, -1e9],
    [11, 0.125],
  ],
};
const shapes: readonly Shape[] = ["peaked", "flat", "tied", "equal", "holes"];

function history(seed: number, width: number): number[] {
  const next = random(seed);
  const some = Array.from({ length: 30 }, () => next() % Math.min(width, 40));
  return [...some, ...some.slice(5, 15)];
}

/** Milliseconds that a test may take: kernels on fibers wait for a busy machine. */
const patience = 60_000;

/** `few`: kernels run on fibers, so that sizes stay small. */
export function sampleTests(
  library: Readonly<Record<string, Call>>,
  { check, deviceBytes, floatsFromDevice, fromDevice, intsFromDevice, onDevice }: DeviceMemory,
  few: boolean,
): void {
  /** Runs the op; also checks that the logits are what they were. */
  function sample({ logits, width, records, entries = [], masks, allGreedy }: Input) {
    const count = records.length;
    const recordBytes = new DataView(new ArrayBuffer(Math.max(2048, count * sampleRecordWords * 4)));
    for (const [i, r] of records.entries()) writeSampleRecord(recordBytes, i, r);
    const entryBytes = new DataView(new ArrayBuffer(Math.max(2048, entries.length * sampleEntryWords * 4)));
    for (const [i, e] of entries.entries()) writeSampleEntry(entryBytes, i, e);
    const device = onDevice(logits);
    const ids = onDevice(ints(Array(count).fill(-7)));
    const logprobs = deviceBytes(count * 4);
    const scratchBytes = count * workBytes + entries.length * 4;
    const scratch = onDevice(new Uint8Array(scratchBytes).fill(0xa5));
    const maskRows = masks ? masks.length / Math.ceil(width / 32) : 0;
    const sizes = [count, logits.length / width, width, entries.length, maskRows, allGreedy ? 1 : 0];
    check(
      library.psi_sample!(
        ...[ids, logprobs, device, onDevice(recordBytes), entries.length > 0 ? onDevice(entryBytes) : null],
        ...[masks ? onDevice(masks) : null, scratch, ...sizes, scratchBytes],
      ),
    );
    const after = fromDevice(device, logits.byteLength);
    expect(Buffer.compare(after, new Uint8Array(logits.buffer, 0, logits.byteLength))).toBe(0);
    return { ids: intsFromDevice(ids, count), logprobs: floatsFromDevice(logprobs, count) };
  }

  /** Device tokens of cases of one width, as one call. */
  function deviceTokens(cases: readonly Case[], width: number, logprob = false) {
    const entries: SampleEntry[] = [];
    const records = cases.map(({ params, history }, r) => {
      const settings = samplingSettings(params, width);
      expect(sampledOnDevice(settings)).toBe(true);
      const own = sampleEntries(settings, history);
      const at = { row: r, firstEntry: entries.length, entries: own.length };
      entries.push(...own);
      const place = settings.greedy ? 0 : new Random(settings.seed!, 0).next();
      return sampleRecord(settings, at, place, logprob);
    });
    const logits = stack(
      cases.map((c) => c.values),
      width,
    );
    return sample({ logits, width, records, entries });
  }

  test.each(settingsOf)(
    "%s: the host's tokens",
    (_name, params) => {
      const width = few ? 3001 : 50_257;
      const cases: Case[] = [];
      for (const shape of shapes) {
        for (let i = 0; i < (few ? 2 : 40); i++) {
          const seed = 1000 * i + shapes.indexOf(shape);
          const own = i % 2 === 0 ? {} : penalties;
          cases.push({
            ...{ params: { ...params, ...own, seed }, values: row(width, seed, shape) },
            history: history(seed, width),
          });
        }
      }
      const { ids } = deviceTokens(cases, width);
      const expected = cases.map((c) => hostToken(c.params, c.values, c.history));
      const differ = cases.flatMap((c, i) => (ids[i] === expected[i] ? [] : [`seed ${c.params.seed}`]));
      expect(differ).toEqual([]);
    },
    patience,
  );

  test(
    "odd widths, and rows of several pieces",
    () => {
      for (const width of few ? [1, 33, 8193, 20_011] : [1, 2, 33, 8191, 8192, 8193, 20_011, 201_088]) {
        const some = width > 10_000 ? settingsOf.filter((_, i) => i % 2 === 1) : settingsOf;
        const cases = some.map(([, params], i) => ({
          params: { ...params, seed: width + i },
          values: row(width, width + i, i % 2 === 0 ? "peaked" : "flat"),
          history: [],
        }));
        const { ids } = deviceTokens(cases, width);
        expect([...ids]).toEqual(cases.map((c) => hostToken(c.params, c.values, c.history)));
      }
    },
    patience,
  );

  test(
    "draws come as often as they should",
    () => {
      const width = 40;
      const values = row(width, 9, "flat");
      const draws = few ? 100 : 3_000;
      const cases = Array.from({ length: draws }, (_, seed) => ({
        ...{ params: { temperature: 1, topK: 4, topP: 1, seed }, values, history: [] },
      }));
      const { ids } = deviceTokens(cases, width);
      const top = topK(values, 4);
      const weights = [...top.values].map((x) => Math.exp(x));
      const total = weights.reduce((a, b) => a + b);
      let statistic = 0;
      for (const [i, token] of top.ids.entries()) {
        const expected = (draws * weights[i]!) / total;
        statistic += (ids.filter((id) => id === token).length - expected) ** 2 / expected;
      }
      expect(statistic).toBeLessThan(16.3); // 3 degrees of freedom, 1 in 1000
    },
    patience,
  );

  test(
    "a row's token and log-probability do not depend on the others",
    () => {
      const width = 9000;
      const cases = settingsOf.map(([, params], i) => ({
        params: { ...params, ...(i % 3 === 0 ? penalties : {}), seed: i },
        values: row(width, i, shapes[i % 4]!),
        history: history(i, width),
      }));
      const together = deviceTokens(cases, width, true);
      for (const [i, one] of cases.entries()) {
        const alone = deviceTokens([one], width, true);
        expect(alone.ids[0]).toBe(together.ids[i]!);
        expect(alone.logprobs[0]).toBe(together.logprobs[i]!);
        const logprob = one.values[alone.ids[0]!]! - logSumExp(one.values);
        expect(Math.abs(alone.logprobs[0]! - logprob)).toBeLessThan(1e-5);
      }
    },
    patience,
  );

  test(
    "masks forbid tokens whatever the rest says",
    () => {
      const width = 1000;
      const words = Math.ceil(width / 32);
      const masks = ints(Array(2 * words).fill(0));
      const open = [5, 31, 32, 64, 999];
      for (const id of open) masks[words + (id >> 5)]! |= 1 << (id & 31);
      masks.fill(-1, 0, words);
      for (const [name, params] of settingsOf) {
        const settings = samplingSettings({ ...params, seed: 3 }, width);
        const values = row(width, name.length, "flat");
        const closed = values.map((x, id) => (open.includes(id) ? x : -Infinity));
        const at = { row: 0, firstEntry: 0, entries: 0 };
        const place = new Random(3, 0).next();
        const records = [0, 1].map((mask) => sampleRecord(settings, { ...at, mask }, place, false));
        const { ids } = sample({ logits: values, width, records, masks });
        const own = { ...params, seed: 3 };
        expect([...ids]).toEqual([hostToken(own, values, []), hostToken(own, Float32Array.from(closed), [])]);
        expect(open).toContain(ids[1]!);
      }
    },
    patience,
  );

  test(
    "greedy alone: ties take the lowest id, NaN never wins, kernels are left out",
    () => {
      const width = 9001;
      const rows = [0, 1, 2, 3].map(() => floats(width).fill(1));
      rows[0]![0] = Number.NaN;
      rows[1]!.fill(Number.NaN);
      rows[2]!.fill(-Infinity)[0] = Number.NaN;
      rows[3]![8999] = Infinity;
      const records = rows.map((_, r) =>
        sampleRecord(
          samplingSettings({ temperature: 0 }, width),
          { row: r, firstEntry: 0, entries: 0 },
          0,
          false,
        ),
      );
      const input = { logits: stack(rows, width), width, records };
      expect([...sample({ ...input, allGreedy: true }).ids]).toEqual([1, 0, 1, 8999]);
      expect([...sample(input).ids]).toEqual([1, 0, 1, 8999]);
    },
    patience,
  );

  test(
    "a record out of contract gives -1 and spoils no other",
    () => {
      const width = 100;
      const good: SampleRecord = {
        ...{ row: 0, greedy: false, logprob: false, topK: 5, topP: 0.9, minP: 0, temperature: 1, place: 0.5 },
        ...{ mask: -1, firstEntry: 0, entries: 0, repeatPenalty: 1, frequencyPenalty: 0, presencePenalty: 0 },
      };
      const bad: Partial<SampleRecord>[] = [
        ...[
          { row: -1 },
          { row: 2 },
          { mask: 0 },
          { firstEntry: 2, entries: 1 },
          { entries: 1, firstEntry: 1 },
        ],
        ...[{ temperature: 0 }, { temperature: Number.NaN }, { place: 1 }, { topK: -1 }, { minP: 2 }],
      ];
      const records = [good, ...bad.map((b) => ({ ...good, ...b })), good];
      const entries = [
        { token: 4, count: 0, bias: 1, loss: 0 },
        { token: 100, count: 0, bias: 1, loss: 0 },
      ];
      const values = row(width, 1, "peaked");
      const logits = stack([values, values], width);
      const { ids } = sample({ logits, width, records, entries });
      expect(ids[0]).toBeGreaterThanOrEqual(0);
      expect(ids.at(-1)).toBe(ids[0]!);
      expect([...ids.subarray(1, -1)]).toEqual(bad.map(() => -1));
      // a promise that nothing is drawn, and a record that wants a draw
      expect([...sample({ logits, width, records: [good], allGreedy: true }).ids]).toEqual([-1]);
    },
    patience,
  );

  test(
    "rows too wide and scratch too small are refused",
    () => {
      const some = deviceBytes(64);
      const call = (width: number, scratch: number) =>
        check(library.psi_sample!(some, some, some, some, null, null, some, 1, 1, width, 0, 0, 0, scratch));
      expect(() => call(600_000, 1e9)).toThrow(/sample.*524288.*600000/);
      expect(() => call(10, 64)).toThrow(/sample.*59408 bytes.*64/);
    },
    patience,
  );
}
