/** How many different experts the rows of a step use: identical prompts would read only four, different ones nearly all. */
import { freeCachePool, makeCachePool, pageSize } from "../../src/models/cache.ts";
import { openModelFiles } from "../../src/models/files/source.ts";
import { loadModel } from "../../src/models/registry.ts";
import { type CheckBackend, openChecked } from "./check.ts";

const steps = 4;

/** Mean number of distinct experts per layer of steps with random tokens, by number of rows. */
export function distinctExperts(
  backend: CheckBackend,
  path: string,
  sizes: readonly number[],
): ReadonlyMap<number, number> {
  // recorded steps are not heard
  const device = openChecked(backend, { eager: true });
  const model = loadModel(device, openModelFiles(path));
  const most = Math.max(...sizes);
  const pools = model.cacheGroups.map((group) =>
    makeCachePool(device, group, "f16", most * Math.ceil(steps / pageSize)),
  );
  let counts: number[] = [];
  device.listeners.add(({ op, outputs }) => {
    if (op.name === "router") counts.push(new Set(device.downloadI32(outputs[0]!)).size);
  });
  let state = 1;
  const randomToken = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * model.config.vocabularySize);
  };
  const means = sizes.map((rows) => {
    counts = [];
    for (let step = 0; step < steps; step++) {
      using _scope = device.scope();
      const ints = (value: (i: number) => number) =>
        device.fromHost(
          "i32",
          [rows],
          Int32Array.from({ length: rows }, (_, i) => value(i)),
        );
      model.forward({
        tokens: ints(randomToken),
        positions: ints(() => step),
        sequences: ints((i) => i),
        pageTables: pools.map(() =>
          device.fromHost(
            "i32",
            [rows, 1],
            Int32Array.from({ length: rows }, (_, i) => i),
          ),
        ),
        pools,
        outputRows: ints((i) => i),
      });
    }
    return [rows, counts.reduce((a, b) => a + b, 0) / Math.max(counts.length, 1)] as const;
  });
  for (const pool of pools) freeCachePool(device, pool);
  model.free();
  device.close();
  return new Map(means);
}
