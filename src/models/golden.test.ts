import { afterAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openDevice } from "../backends/index.ts";
import { planDigest } from "../compiler/digest.ts";
import { programMemory } from "../compiler/memory.ts";
import type { Device } from "../runtime/device.ts";
import { record } from "../runtime/recorder.ts";
import { freeCachePool, makeCachePool } from "./cache.ts";
import { openModelFiles } from "./files/source.ts";
import type { CacheType, Model } from "./model.ts";
import { loadModel } from "./registry.ts";

const folder = join(import.meta.dir, "../../fixtures/golden/gpt_oss");
const ids: number[] = JSON.parse(readFileSync(join(folder, "input_ids.json"), "utf8")).flat();
const reference = new Float32Array(readFileSync(join(folder, "logits.f32")).buffer.slice(0));
const vocabulary = reference.length / ids.length;

/** f32 arithmetic on bf16 weights against the same in another order of summation: measured 3e-7. */
const tolerance = 1e-5;
/** Keys and values rounded to 11 bits: measured 6e-5. */
const f16Tolerance = 1e-3;

type Session = {
  readonly device: Device;
  readonly model: Model;
  run(parts: readonly number[][]): Float32Array;
  close(): void;
};

function session(device: Device, cacheType: CacheType): Session {
  const model = loadModel(device, openModelFiles(folder));
  const pages = 8;
  const pools = model.cacheGroups.map((group) => makeCachePool(device, group, cacheType, pages));
  const table = Int32Array.from({ length: pages }, (_, i) => pages - 1 - i);
  return {
    device,
    model,
    /** Logits of every position, computed in the given parts one after the other. */
    run(parts) {
      const rows: Float32Array[] = [];
      let position = 0;
      for (const part of parts) {
        using _step = device.scope();
        const count = part.length;
        const range = Int32Array.from({ length: count }, (_, i) => i);
        const logits = model.forward({
          tokens: device.fromHost("i32", [count], Int32Array.from(part)),
          positions: device.fromHost(
            "i32",
            [count],
            range.map((i) => i + position),
          ),
          sequences: device.fromHost("i32", [count], new Int32Array(count)),
          pageTables: pools.map(() => device.fromHost("i32", [1, pages], table)),
          pools,
          outputRows: device.fromHost("i32", [count], range),
        });
        rows.push(device.downloadF32(logits));
        position += count;
      }
      const all = new Float32Array(position * vocabulary);
      let at = 0;
      for (const r of rows) {
        all.set(r, at);
        at += r.length;
      }
      return all;
    },
    close() {
      for (const pool of pools) freeCachePool(device, pool);
      model.free();
    },
  };
}

function relativeError(a: Float32Array, b: Float32Array): number {
  let difference = 0;
  let size = 0;
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return Math.sqrt(difference / size);
}

describe("gpt-oss against transformers", () => {
  const device = openDevice("cpu", { threads: 2 });
  afterAll(() => device.close());

  test.each([
    ["f32", tolerance],
    ["f16", f16Tolerance],
    ["bf16", 1e-2],
    ["q8_0", 2e-2],
  ] as const)("logits with a cache of %s", (cacheType, limit) => {
    const s = session(device, cacheType);
    const logits = s.run([ids]);
    expect(relativeError(logits, reference)).toBeLessThan(limit);
    if (cacheType === "f32") {
      for (let t = 0; t < ids.length; t++) {
        const row = (of: Float32Array) => of.subarray(t * vocabulary, (t + 1) * vocabulary);
        const [first, second] = [...row(reference)].sort((a, b) => b - a) as [number, number];
        if (first - second > 1e-2)
          expect(row(logits).indexOf(Math.max(...row(logits)))).toBe(row(reference).indexOf(first));
      }
    }
    s.close();
    expect(device.live()).toEqual({ tensors: 0, bytes: 0, scopes: 0 });
  });

  test("one by one, in chunks and at once give the same bits", () => {
    const s = session(device, "f16");
    const whole = s.run([ids]);
    expect(s.run(ids.map((id) => [id]))).toEqual(whole);
    expect(s.run([ids.slice(0, 5), ids.slice(5, 6), ids.slice(6, 70), ids.slice(70)])).toEqual(whole);
    s.close();
  });

  test("ggml's rounding of the YaRN bounds is a switch", () => {
    const ggml = loadModel(device, openModelFiles(folder), { numerics: "ggml" });
    ggml.free();
    const program = (numerics: "reference" | "ggml") => {
      const meta = openDevice("meta");
      const model = loadModel(meta, openModelFiles(folder), { numerics });
      return model.config as { ropeScaling?: { round?: boolean } };
    };
    expect(program("ggml").ropeScaling?.round).toBe(true);
    expect(program("reference").ropeScaling?.round).toBe(false);
  });
});

test("the meta device records the same program and counts the same weights, reading no tensor", () => {
  const recorded = (["meta", "cpu"] as const).map((name) => {
    const device = name === "meta" ? openDevice("meta") : openDevice("cpu", { threads: 1 });
    const s = session(device, "f16");
    const program = record(device, () => s.run([ids]));
    const bytes = s.model.weightBytes;
    s.close();
    device.close();
    return { digest: planDigest(program), bytes, memory: programMemory(program) };
  });
  expect(recorded[0]).toEqual(recorded[1]!);
  expect(recorded[0]!.memory.weightBytes).toBeGreaterThan(0);
});
