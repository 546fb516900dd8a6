/** Tokens chosen on the device and fed to the next step there, against the host's sampler over the same logits. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { openDevice } from "../../backends/index.ts";
import { cudaLibrary, onFibers } from "../../backends/testing/cuda_library.ts";
import { pageSize } from "../../models/cache.ts";
import { openModelFiles } from "../../models/files/source.ts";
import { loadModel } from "../../models/registry.ts";
import { goldenFolder } from "../../models/testing/golden_folder.ts";
import type { SamplingParams } from "../protocol.ts";
import type { Batch, Logits, StartedStep, TokenChoice } from "./batch.ts";
import { ModelExecutor } from "./executor.ts";
import { sampleEntries } from "./sample_record.ts";
import { makeSamplers, type Sampler } from "./sampler.ts";
import { changesLogits } from "./sampling_settings.ts";

// a busy machine runs fibers at a tenth of their speed
setDefaultTimeout(400_000);

const prompt = 4;
const steps = onFibers ? 4 : 40;
const maxPages = Math.ceil((prompt + steps + 1) / pageSize);

/** One row each: what needs nothing from the host, then what does. */
const free: readonly SamplingParams[] = [
  { temperature: 0 },
  { temperature: 2, topK: 20, topP: 0.95, seed: 7 },
  { temperature: 1.5, topK: 0, topP: 1, seed: 8 },
];
const remembering: SamplingParams = { temperature: 1, repeatPenalty: 1.3, logitBias: [[5, 4]], seed: 9 };

describe.skipIf(!cudaLibrary)("tokens chosen on CUDA", () => {
  test("are the host's, in steps under way and in single ones", () => {
    const device = openDevice("cuda");
    const model = loadModel(device, openModelFiles(goldenFolder));
    const width = model.config.vocabularySize;
    const params = [...free, remembering];
    const groups = model.cacheGroups.map(({ window }) => ({ window, pages: maxPages * params.length }));
    const executor = new ModelExecutor(device, model, groups, "f16", { slots: params.length, maxPages });

    const pagesOf = (s: number) => Array.from({ length: maxPages }, (_, i) => s * maxPages + i);
    const batchOf = (rows: readonly number[], tokens: readonly number[], position: number): Batch => {
      const each = tokens.length / rows.length;
      return {
        tokens: Int32Array.from(tokens),
        positions: Int32Array.from(tokens, (_, i) => position + (i % each)),
        sequences: Int32Array.from(tokens, (_, i) => Math.floor(i / each)),
        pageTables: groups.map(() => Int32Array.from(rows.flatMap(pagesOf))),
        ...{ sequenceCount: rows.length, maxPages },
        outputRows: Int32Array.from(rows, (_, i) => (i + 1) * each - 1),
      };
    };
    const samplers = () => params.map((p) => makeSamplers(p, 1, width)[0]!);
    const histories = () =>
      params.map((_, s) => Array.from({ length: prompt }, (_, i) => (i * 37 + s * 11 + 5) % width));
    const choicesOf = (all: readonly Sampler[], rows: readonly number[], history: number[][]) =>
      rows.map((s, row): TokenChoice => {
        const sampler = all[s]!;
        const { settings } = sampler;
        const entries = changesLogits(settings) && { entries: () => sampleEntries(settings, history[s]!) };
        return { row, settings, place: sampler.place(), logprob: s === 1, ...entries };
      });
    const host = (sampler: Sampler, logits: Logits, row: number, history: number[]) =>
      sampler.choose(
        {
          argmax: () => logits.argmax()[row]!,
          topK: (k) => logits.topK(Math.min(k, width))[row]!,
          copy: () => logits.copy(row),
        },
        history,
      );

    // the host's tokens, row by row of the logits
    const wanted = histories();
    {
      const all = samplers();
      params.forEach((_, s) => {
        executor.run(batchOf([s], wanted[s]!, 0), (logits) => {
          wanted[s]!.push(host(all[s]!, logits, 0, wanted[s]!));
        });
      });
      for (let i = 0; i < steps; i++) {
        const rows = params.map((_, s) => s);
        const tokens = rows.map((s) => wanted[s]!.at(-1)!);
        executor.run(batchOf(rows, tokens, prompt + i), (logits) => {
          const next = rows.map((s) => host(all[s]!, logits, s, wanted[s]!));
          for (const s of rows) wanted[s]!.push(next[s]!);
        });
      }
    }

    // the device's: prompts, then single steps of all, where one has to remember
    const single = histories();
    const all = samplers();
    params.forEach((_, s) => {
      const choices = choicesOf(all, [s], single).map((choice) => ({ ...choice, row: 0 }));
      const read = (logits: Logits) => {
        single[s]!.push(logits.chosen(0)!.token);
      };
      executor.run({ ...batchOf([s], single[s]!, 0), choices }, read);
    });
    for (let i = 0; i < 2; i++) {
      const rows = params.map((_, s) => s);
      const choices = choicesOf(all, rows, single);
      const tokens = rows.map((s) => single[s]!.at(-1)!);
      const started = executor.start({ ...batchOf(rows, tokens, prompt + i), choices })!;
      const results = started.results();
      for (const s of rows) single[s]!.push(results.chosen(s)!.token);
    }
    expect(single).toEqual(wanted.map((tokens) => tokens.slice(0, prompt + 3)));

    // then steps under way, of those that need nothing from the host, each read behind the start of the next, as the
    // scheduler does it: the device keeps the results of few; one leaves in between
    type Started = { readonly rows: readonly number[]; readonly step: StartedStep };
    let read = 0;
    const take = ({ rows, step }: Started): void => {
      const results = step.results();
      const [sums, ranked] = [results.logSumExp(), results.topK(3)];
      rows.forEach((s, row) => {
        const { token, logprob } = results.chosen(row)!;
        single[s]!.push(token);
        const place = ranked[row]!.ids.indexOf(token);
        if (s === 0) expect(place).toBe(0);
        // two kernels sum up the row in different orders
        if (s === 1 && place >= 0)
          expect(Math.abs(ranked[row]!.values[place]! - sums[row]! - logprob)).toBeLessThan(1e-5);
      });
      read += 1;
    };
    let rows = [0, 1, 2];
    let last: Started | undefined;
    for (let i = 2; i < steps; i++) {
      const before = rows;
      if (i === 3) rows = [0, 2];
      const choices = choicesOf(all, rows, single);
      const known = rows.map((s) => (i === 2 ? single[s]!.at(-1)! : 0));
      const follows = i > 2 && { follows: Int32Array.from(rows, (s) => before.indexOf(s)) };
      const batch = { ...batchOf(rows, known, prompt + i), choices, ranks: 3, ...follows };
      const next = { rows, step: executor.start(batch)! };
      if (last) take(last);
      last = next;
    }
    take(last!);
    for (const s of [0, 2]) expect(single[s]).toEqual(wanted[s]!);
    expect(single[1]).toEqual(wanted[1]!.slice(0, single[1]!.length));
    expect(read).toBe(steps - 2);

    executor.free();
    model.free();
    expect(device.live().tensors).toBe(0);
    device.close();
  });
});
