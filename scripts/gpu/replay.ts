/** 64 tokens of greedy decoding, recorded steps against steps called one by one: the same bits. */

import { pageSize } from "../../src/models/cache.ts";
import { openModelFiles } from "../../src/models/files/source.ts";
import { loadModel } from "../../src/models/registry.ts";
import type { Device } from "../../src/runtime/device.ts";
import { ModelExecutor } from "../../src/serve/engine/executor.ts";
import { type Check, defaultModel, goldenFolder, openChecked } from "./check.ts";

const tokens = 64;
const promptLength = 21;

export function replay({ backend, report }: Check): void {
  for (const [name, path] of [
    ["golden gpt_oss folder", goldenFolder],
    ["default model", defaultModel],
  ] as const) {
    for (const sequences of [1, 5]) {
      const [replayed, eager] = [false, true].map((plain) => {
        const device = openChecked(backend, { eager: plain });
        const rows = decode(device, path, sequences);
        device.close();
        return rows;
      }) as [Uint32Array[], Uint32Array[]];
      const first = replayed.findIndex((row, i) => row.some((bits, v) => bits !== eager[i]![v]));
      report({
        what: `${name}, ${sequences} at once: ${tokens} steps replayed and eager`,
        required: "equal bits",
        got: first < 0 ? "equal bits" : `row ${first} differs`,
        ok: first < 0,
      });
    }
  }
}

/** Bits of the logits of every step and sequence. */
function decode(device: Device, path: string, count: number): Uint32Array[] {
  const model = loadModel(device, openModelFiles(path));
  const pages = Math.ceil((promptLength + tokens + 1) / pageSize);
  const groups = model.cacheGroups.map(({ window }) => ({ window, pages: pages * count }));
  const executor = new ModelExecutor(device, model, groups, "f16", { slots: count, maxPages: pages });
  const all = Array.from({ length: count }, (_, s) => s);
  const vocabulary = model.config.vocabularySize;
  const rows: Uint32Array[] = [];
  const next = Int32Array.from(all);
  const run = (sequences: readonly number[], ids: Int32Array, position: number, each: number) => {
    const tables = sequences.flatMap((s) => Array.from({ length: pages }, (_, i) => s * pages + i));
    executor.run(
      {
        tokens: ids,
        positions: Int32Array.from(ids, (_, i) => position + (i % each)),
        sequences: Int32Array.from(ids, (_, i) => Math.floor(i / each)),
        pageTables: model.cacheGroups.map(() => Int32Array.from(tables)),
        ...(model.recurrent && { stateSlots: Int32Array.from(sequences) }),
        ...{ sequenceCount: sequences.length, maxPages: pages },
        outputRows: Int32Array.from(sequences, (_, i) => (i + 1) * each - 1),
      },
      (logits) => {
        const ids = logits.argmax();
        sequences.forEach((s, i) => {
          next[s] = ids[i]!;
          rows.push(new Uint32Array(logits.copy(i).slice().buffer));
        });
      },
    );
  };
  for (const s of all) {
    const prompt = Int32Array.from({ length: promptLength }, (_, i) => (i * 37 + s * 101 + 11) % vocabulary);
    run([s], prompt, 0, promptLength);
  }
  for (let i = 0; i < tokens; i++) run(all, next.slice(), promptLength + i, 1);
  executor.free();
  model.free();
  return rows;
}
