/** A model run directly over one sequence, for tests that compare logits. */
import type { Device } from "../../runtime/device.ts";
import {
  freeCachePool,
  freeStatePool,
  makeCachePool,
  makeStatePool,
  pageSize,
  stepStates,
} from "../cache.ts";
import { openModelFiles } from "../files/source.ts";
import type { CacheType, Model } from "../model.ts";
import { type LoadOptions, loadModel } from "../registry.ts";

export type Session = {
  readonly model: Model;
  /** Logits f32 [T, V] of every position, computed in the given parts one after the other. */
  run(parts: readonly (readonly number[])[]): Float32Array;
  /** Normed hidden states f32 [T, D] of every position, computed at once. */
  hidden(tokens: readonly number[]): Float32Array;
  close(): void;
};

/** Loads the model at `path` with room for 128 positions. */
export function openSession(
  device: Device,
  path: string,
  { cacheType = "f32", ...load }: LoadOptions & { readonly cacheType?: CacheType } = {},
): Session {
  const model = loadModel(device, openModelFiles(path), load);
  const pages = 128 / pageSize;
  const pools = model.cacheGroups.map((group) => makeCachePool(device, group, cacheType, pages));
  const states = model.recurrent && makeStatePool(device, model.recurrent, 2);
  const table = Int32Array.from({ length: pages }, (_, i) => pages - 1 - i);
  const i32 = (data: Int32Array) => device.fromHost("i32", [data.length], data);
  const step = (part: readonly number[], position: number, compute = model.forward): Float32Array => {
    using _step = device.scope();
    const rows = Int32Array.from(part, (_, i) => i);
    const sequences = i32(new Int32Array(part.length));
    const results = compute({
      tokens: i32(Int32Array.from(part)),
      positions: i32(rows.map((i) => i + position)),
      sequences,
      ...(states && { states: stepStates(device, states, sequences, [1]) }),
      pageTables: pools.map(() => device.fromHost("i32", [1, pages], table)),
      pools,
      outputRows: i32(rows),
    });
    return device.downloadF32(results);
  };
  return {
    model,
    run(parts) {
      const total = parts.reduce((sum, part) => sum + part.length, 0);
      const all = new Float32Array(total * model.config.vocabularySize);
      let position = 0;
      for (const part of parts) {
        all.set(step(part, position), position * model.config.vocabularySize);
        position += part.length;
      }
      return all;
    },
    hidden: (tokens) => step(tokens, 0, model.hidden),
    close() {
      for (const pool of pools) freeCachePool(device, pool);
      if (states) freeStatePool(device, states);
      model.free();
    },
  };
}

/** Sum of squared differences over the sum of squares of `reference`. */
export function normalisedSquaredError(values: Float32Array, reference: Float32Array): number {
  let difference = 0;
  let size = 0;
  for (let i = 0; i < reference.length; i++) {
    difference += (values[i]! - reference[i]!) ** 2;
    size += reference[i]! ** 2;
  }
  return difference / size;
}
