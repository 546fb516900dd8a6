/** Experts that the bench counts, beside what the routers chose, whichever op a backend routes by. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { type ModelShape, randomModel, shapes } from "../../../scripts/random-model.ts";
import { openDevice } from "../../backends/index.ts";
import { cudaLibrary } from "../../backends/testing/cuda_library.ts";
import { openModelFiles } from "../../models/files/source.ts";
import { loadModel } from "../../models/registry.ts";
import { temporaryFolder, writeModel } from "../../models/testing/variants.ts";
import type { Listener } from "../../runtime/device.ts";
import { CaseRunner } from "./bench_steps.ts";

// a busy machine runs fibers at a tenth of their speed
setDefaultTimeout(60_000);

const folder = temporaryFolder();
afterAll(() => folder[Symbol.dispose]());

/** Wide enough for the ops that choose experts beside norms; of Gemma's layers the sixth is the first global one. */
const models = {
  "gpt-oss": { layers: 2, cpu: "router", cuda: "add_norm_router" },
  "gemma4-moe": { layers: 6, cpu: "router", cuda: "norm_add_norms_router" },
} as const;
const experts = 8;
const backends = cudaLibrary ? (["cpu", "cuda"] as const) : (["cpu"] as const);

describe.each(backends)("experts read, %s", (backend) => {
  /** What the bench says of steps of two sequences, what the routers chose in them, and the costs that know no choices. */
  function counted(name: keyof typeof models, expertsUsed: number) {
    const { layers } = models[name];
    const shape: ModelShape = { ...shapes[`tiny-${name}`]!, layers, width: 544, expertsUsed };
    const path = writeModel(
      join(folder.path, `${name}.gguf`),
      randomModel({ shape, dtype: "q8_0", expertDtype: "q4_0", seed: 3 }),
    );
    const device = openDevice(backend);
    const model = loadModel(device, openModelFiles(path));
    const routers = new Set<string>();
    const chosen: number[] = [];
    let bytes = 0;
    const hear: Listener = ({ op, inputs, outputs, params }) => {
      bytes += op.cost(inputs, params as never, outputs).bytes;
      const ids = op.name.endsWith("router") && outputs.find(({ dtype }) => dtype === "i32");
      if (!ids) return;
      routers.add(op.name);
      chosen.push(new Set(device.downloadI32(ids)).size);
    };
    device.listeners.add(hear);
    const tokens = 4; // as many as the bench takes samples of
    const runner = new CaseRunner(device, model, "f16", { kind: "generation", tokens, depth: 0, batch: 2 });
    const cost = runner.cost();
    device.listeners.delete(hear);
    runner.free();
    model.free();
    device.close();
    return { cost, routers: [...routers], chosen, bytes };
  }

  test.each(["gpt-oss", "gemma4-moe"] as const)("%s", (name) => {
    const some = counted(name, 3);
    expect<string[]>(some.routers).toEqual([models[name][backend]]);
    expect(some.cost.distinctExperts).toBe(some.chosen.reduce((sum, n) => sum + n, 0) / some.chosen.length);
    expect(some.cost.distinctExperts).toBeWithin(3, 6.01);
    expect(some.cost.bytes).toBeLessThan(some.bytes); // two rows seldom choose six different ones
    const all = counted(name, experts);
    expect(all.cost.distinctExperts).toBe(experts);
    expect(all.cost.bytes).toBeCloseTo(all.bytes, 0);
  });
});
