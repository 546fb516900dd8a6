import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type ModelShape, type RandomModel, randomModel, shapes } from "../../scripts/random-model.ts";
import { openDevice } from "../backends/index.ts";
import { fileTypes } from "../core/dtype.ts";
import { normalisedSquaredError, openSession } from "./testing/session.ts";
import { dequantisedTwin, temporaryFolder, writeModel } from "./testing/variants.ts";

/** What the issue grants a file of any type against an f32 evaluation of its own weights. */
const limit = 1e-3;
const ids = Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 300);
const types = fileTypes.filter((t) => t !== "i32");
const llama = shapes["tiny-llama"]!;
const gptOss = shapes["tiny-gpt-oss"]!;

const device = openDevice("cpu", { threads: 1 });
const folder = temporaryFolder();
afterAll(() => {
  device.close();
  folder[Symbol.dispose]();
});

function logits(model: RandomModel): { whole: Float32Array; single: Float32Array } {
  const path = writeModel(join(folder.path, "model.gguf"), model);
  const session = openSession(device, path);
  const result = { whole: session.run([ids]), single: session.run(ids.map((id) => [id])) };
  session.close();
  return result;
}

/** The error against the dequantised twin, after the checks that hold for every file. */
function errorAgainstTwin(model: RandomModel): number {
  const { whole, single } = logits(model);
  expect(single).toEqual(whole);
  const reference = logits(dequantisedTwin(model)).whole;
  expect(reference.every(Number.isFinite)).toBe(true);
  return normalisedSquaredError(whole, reference);
}

describe("files of every type agree with an f32 evaluation of their weights", () => {
  test.each(types)("llama in %s", (dtype) => {
    const error = errorAgainstTwin(randomModel({ shape: llama, dtype, seed: 1 }));
    console.log(`llama ${dtype}: ${error.toExponential(1)}`);
    expect(error).toBeLessThan(limit);
  });

  // A router's choice is no continuous function: where rounding tips a near tie, the logits of that token are others. With
  // activations of 8 bits half of such random files are beyond the limit, with 16 about one in thirty.
  test.each(types)("gpt-oss with 4 and 2 of 8 experts in %s", (expertDtype) => {
    for (const [expertsUsed, seed] of [
      [4, 2],
      [2, 5],
    ] as const) {
      const model = randomModel({ shape: { ...gptOss, expertsUsed }, dtype: "q8_0", expertDtype, seed });
      const error = errorAgainstTwin(model);
      console.log(`gpt-oss ${expertsUsed} experts ${expertDtype}: ${error.toExponential(1)}`);
      expect(error).toBeLessThan(limit);
    }
  });

  const rows32 = types.filter((t) => !/_k$|iq4_xs/.test(t));
  test.each(["tiny-qwen35moe", "tiny-gemma4-moe"].flatMap((name) => rows32.map((t) => [name, t] as const)))(
    "%s in %s",
    (name, dtype) => {
      const error = errorAgainstTwin(randomModel({ shape: shapes[name]!, dtype, seed: 4 }));
      console.log(`${name} ${dtype}: ${error.toExponential(1)}`);
      expect(error).toBeLessThan(limit);
    },
  );

  test("gpt-oss with dense matrices in q5_0, whose rows are no multiple of 256", () => {
    const shape: ModelShape = { ...gptOss, width: 288, feedForward: 96 };
    const error = errorAgainstTwin(randomModel({ shape, dtype: "q5_0", expertDtype: "mxfp4", seed: 3 }));
    console.log(`gpt-oss q5_0, mxfp4: ${error.toExponential(1)}`);
    expect(error).toBeLessThan(limit);
  });
});
