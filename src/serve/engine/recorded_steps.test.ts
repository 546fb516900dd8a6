import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { randomModel, shapes } from "../../../scripts/random-model.ts";
import { openDevice } from "../../backends/index.ts";
import { cudaLibrary, onFibers } from "../../backends/testing/cuda_library.ts";
import { pageBucket, rowBucket } from "../../compiler/buckets.ts";
import { pageSize } from "../../models/cache.ts";
import { openModelFiles } from "../../models/files/source.ts";
import { loadModel } from "../../models/registry.ts";
import { goldenFolder } from "../../models/testing/golden_folder.ts";
import { temporaryFolder, writeModel } from "../../models/testing/variants.ts";
import { Device } from "../../runtime/device.ts";
import type { Batch } from "./batch.ts";
import { ModelExecutor } from "./executor.ts";

// a busy machine runs fibers at a tenth of their speed
setDefaultTimeout(60_000);

const chat = join(import.meta.dir, "../../../fixtures/docs-oss-13m-mxfp4.gguf");
const folder = temporaryFolder();
const recurrent = writeModel(
  join(folder.path, "recurrent.gguf"),
  randomModel({ shape: shapes["tiny-qwen35moe"]!, dtype: "q8_0", expertDtype: "q4_0", seed: 41 }),
);
afterAll(() => folder[Symbol.dispose]());

test("few sizes of recordings serve every batch and context", () => {
  expect([1, 2, 3, 4, 5, 8, 9, 16, 17, 64, 65].map((rows) => rowBucket(rows, true))).toEqual([
    1, 2, 4, 4, 8, 8, 16, 16, 32, 64, 80,
  ]);
  expect(rowBucket(3, false)).toBe(3);
  expect([1, 64, 65, 500, 4000].map((pages) => pageBucket(pages, 3000))).toEqual([64, 64, 128, 512, 3000]);
});

const backends = cudaLibrary ? (["cpu", "cuda"] as const) : (["cpu"] as const);

describe.each(backends)("recorded generation steps, %s", (name) => {
  let device: Device;
  /** The same, counting the steps that are replayed. */
  let counting: Device;
  let replayed = 0;
  beforeAll(() => {
    device = openDevice(name);
    const replay = (key: string, step: () => void) => {
      replayed += 1;
      device.backend.replay(key, step);
    };
    counting = new Device({ ...device.backend, replay, close() {} });
  });
  afterAll(() => {
    counting.arena.free();
    device.close();
  });

  /** Greedy tokens of `count` sequences, and the bits of the logits of every step. */
  function generate(on: Device, path: string, count: number, prompt: number, steps: number) {
    const model = loadModel(on, openModelFiles(path));
    const maxPages = Math.ceil((prompt + steps + 1) / pageSize);
    const groups = model.cacheGroups.map(({ window }) => ({ window, pages: maxPages * count }));
    const executor = new ModelExecutor(on, model, groups, "f16", { slots: count, maxPages });
    const batchOf = (tokens: number[], sequences: number[], position: number): Batch => {
      const each = tokens.length / sequences.length;
      const pages = Math.ceil((position + each) / pageSize);
      const tables = sequences.flatMap((s) => Array.from({ length: pages }, (_, i) => s * maxPages + i));
      return {
        tokens: Int32Array.from(tokens),
        positions: Int32Array.from(tokens, (_, i) => position + (i % each)),
        sequences: Int32Array.from(tokens, (_, i) => Math.floor(i / each)),
        pageTables: groups.map(() => Int32Array.from(tables)),
        ...(model.recurrent && { stateSlots: Int32Array.from(sequences) }),
        ...{ sequenceCount: sequences.length, maxPages: pages },
        outputRows: Int32Array.from(sequences, (_, i) => (i + 1) * each - 1),
      };
    };
    const bits: Uint32Array[] = [];
    const all = Array.from({ length: count }, (_, i) => i);
    let next: number[] = [];
    const run = (batch: Batch) =>
      executor.run(batch, (logits) => {
        next = [...next, ...logits.argmax()];
        for (let r = 0; r < logits.rows; r++) bits.push(new Uint32Array(logits.copy(r).buffer));
        // what comes after a launch must not overwrite what it left
        expect(logits.topK(1).map(({ ids }) => ids[0])).toEqual(next.slice(-logits.rows));
      });
    for (const s of all) {
      const tokens = Array.from(
        { length: prompt },
        (_, i) => (i * 37 + s * 101 + 11) % model.config.vocabularySize,
      );
      run(batchOf(tokens, [s], 0));
    }
    const tokens: number[][] = [];
    for (let i = 0; i < steps; i++) {
      const now = next;
      tokens.push(now);
      next = [];
      // one sequence leaves half-way, so that another bucket is used and then rows are spare
      run(batchOf(now, all.slice(0, now.length), prompt + i));
      if (i === steps >> 1 && count > 2) next.pop();
    }
    executor.free();
    model.free();
    return { tokens, bits };
  }

  const eager = () => new Device({ ...device.backend, captures: false, close() {} });
  /** On fibers a step takes tens of milliseconds; a real device does the whole length. */
  const length = (fewest: number) => (onFibers && name === "cuda" ? fewest : 64);

  test.each([
    ["golden gpt_oss", goldenFolder, 1, length(8)],
    ["golden gpt_oss", goldenFolder, 5, length(4)],
    ["the built-in model", chat, 3, length(3)],
    ["recurrent layers", recurrent, 5, length(4)],
  ] as const)(
    "%s: launched and called one by one give the same tokens and bits",
    (_name, path, count, tokens) => {
      replayed = 0;
      const recorded = generate(counting, path, count, 5, tokens);
      expect(replayed).toBe(tokens);
      expect(counting.live()).toEqual({ tensors: 0, bytes: 0, scopes: 0 });
      const plain = eager();
      const called = generate(plain, path, count, 5, tokens);
      plain.arena.free();
      expect(recorded.tokens).toEqual(called.tokens);
      expect(recorded.bits).toEqual(called.bits);
    },
  );
});
