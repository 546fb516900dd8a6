/** Reference logits made by transformers (fixtures/golden/README.md), and a model that runs beside them. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Device } from "../../runtime/device.ts";
import { freeCachePool, freeStatePool, makeCachePool, makeStatePool, stepStates } from "../cache.ts";
import { openModelFiles } from "../files/source.ts";
import type { CacheType, Model } from "../model.ts";
import { loadModel } from "../registry.ts";
import { goldenFolder } from "./golden_folder.ts";

export type Golden = {
  readonly folder: string;
  readonly ids: readonly number[];
  /** f32 [T, V] */
  readonly logits: Float32Array;
  readonly vocabulary: number;
};

/** A golden model of the fixtures, or of the folder that PSIONIC_GOLDEN names; undefined where it is in neither. */
export function golden(name: string): Golden | undefined {
  const places = [dirname(goldenFolder), process.env.PSIONIC_GOLDEN];
  const place = places.find((p) => p && existsSync(join(p, name, "model.safetensors")));
  if (!place) return undefined;
  const folder = join(place, name);
  const ids: number[] = JSON.parse(readFileSync(join(folder, "input_ids.json"), "utf8")).flat();
  const logits = new Float32Array(readFileSync(join(folder, "logits.f32")).buffer.slice(0));
  return { folder, ids, logits, vocabulary: logits.length / ids.length };
}

export type Session = {
  readonly device: Device;
  readonly model: Model;
  /** Logits of every position, computed in the given parts one after the other. */
  run(parts: readonly (readonly number[])[]): Float32Array;
  close(): void;
};

export function session(device: Device, { folder, vocabulary }: Golden, cacheType: CacheType): Session {
  const model = loadModel(device, openModelFiles(folder));
  const pages = 8;
  const pools = model.cacheGroups.map((group) => makeCachePool(device, group, cacheType, pages));
  const states = model.recurrent && makeStatePool(device, model.recurrent, 2);
  const table = Int32Array.from({ length: pages }, (_, i) => pages - 1 - i);
  return {
    device,
    model,
    run(parts) {
      const rows: Float32Array[] = [];
      let position = 0;
      for (const part of parts) {
        using _step = device.scope();
        const count = part.length;
        const range = Int32Array.from({ length: count }, (_, i) => i);
        const sequences = device.fromHost("i32", [count], new Int32Array(count));
        const logits = model.forward({
          tokens: device.fromHost("i32", [count], Int32Array.from(part)),
          positions: device.fromHost(
            "i32",
            [count],
            range.map((i) => i + position),
          ),
          sequences,
          ...(states && { states: stepStates(device, states, sequences, [1]) }),
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
      if (states) freeStatePool(device, states);
      model.free();
    },
  };
}

/** Euclidean norm of the difference over that of b. */
export function relativeError(a: Float32Array, b: Float32Array): number {
  let difference = 0;
  let size = 0;
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return Math.sqrt(difference / size);
}

/** Whether the likeliest token agrees wherever the reference's first two differ by more than 0.01. */
export function sameChoices(logits: Float32Array, { ids, logits: reference, vocabulary }: Golden): boolean {
  return ids.every((_, t) => {
    const row = (of: Float32Array) => of.subarray(t * vocabulary, (t + 1) * vocabulary);
    const [first, second] = [...row(reference)].sort((a, b) => b - a) as [number, number];
    return (
      first - second <= 1e-2 ||
      row(logits).indexOf(Math.max(...row(logits))) === row(reference).indexOf(first)
    );
  });
}
