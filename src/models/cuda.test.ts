/** Models on CUDA against the reference and the CPU: few tokens, since without a device kernels run on fibers of the CPU. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type ModelShape, type RandomModel, randomModel, shapes } from "../../scripts/random-model.ts";
import { openDevice } from "../backends/index.ts";
import { cudaLibrary, onFibers } from "../backends/testing/cuda_library.ts";
import { fileTypes } from "../core/dtype.ts";
import type { Device } from "../runtime/device.ts";
import { openAdapter } from "./adapter.ts";
import { writeAdapter } from "./testing/adapters.ts";
import { goldenFolder } from "./testing/golden_folder.ts";
import { normalisedSquaredError, openSession } from "./testing/session.ts";
import { dequantisedTwin, temporaryFolder, writeModel } from "./testing/variants.ts";

// a busy machine runs fibers at a tenth of their speed
setDefaultTimeout(60_000);

const goldenIds: number[] = JSON.parse(readFileSync(join(goldenFolder, "input_ids.json"), "utf8")).flat();
const reference = new Float32Array(readFileSync(join(goldenFolder, "logits.f32")).buffer.slice(0));
const vocabulary = reference.length / goldenIds.length;

/** Activations rounded to bf16 for the products, weights as they are: measured 4e-6. */
const goldenLimit = 1e-4;
/** Weights and activations rounded to bf16. */
const limit = 1e-3;
const recurrentLimit = 1e-2;
/** f32 products are the slowest on fibers, and stand in every router; f64 files become f32. */
const skipped = onFibers ? ["i32", "f32", "f64"] : ["i32"];
const types = fileTypes.filter((t) => !skipped.includes(t));
const ids = [11, 48, 85, 122, 159];

describe.skipIf(!cudaLibrary)("models on CUDA", () => {
  let cuda: Device;
  let cpu: Device;
  const folder = temporaryFolder();
  let files = 0;
  beforeAll(() => {
    cuda = openDevice("cuda");
    cpu = openDevice("cpu", { threads: 1 });
  });
  afterAll(() => {
    cpu.close();
    cuda.close();
    folder[Symbol.dispose]();
  });

  /** Logits of every position, in the given parts. */
  function logits(
    device: Device,
    path: string,
    parts: readonly (readonly number[])[],
    adapter?: string,
  ): Float32Array {
    const session = openSession(device, path, adapter === undefined ? {} : { adapter: openAdapter(adapter) });
    const result = session.run(parts);
    session.close();
    return result;
  }

  const write = (model: RandomModel): string => writeModel(join(folder.path, `${files++}.gguf`), model);

  /** The error on CUDA against an f32 evaluation of the same weights on the CPU; chunks and single tokens are one. */
  function errorOf(model: RandomModel): number {
    const path = write(model);
    const whole = logits(cuda, path, [ids]);
    expect(logits(cuda, path, [ids.slice(0, 1), ids.slice(1)])).toEqual(whole);
    expect(cuda.live()).toEqual({ tensors: 0, bytes: 0, scopes: 0 });
    return normalisedSquaredError(whole, logits(cpu, write(dequantisedTwin(model)), [ids]));
  }

  test("adapters add to their matrices, at once and in parts", () => {
    const model = randomModel({ shape: shapes["tiny-qwen3"]!, dtype: "bf16", seed: 7 });
    const path = write(model);
    const parts = ["attn_q", "attn_v", "attn_output", "ffn_down"];
    const adapter = writeAdapter(join(folder.path, "adapter"), model, parts, 3);
    const whole = logits(cuda, path, [ids], adapter);
    expect(logits(cuda, path, [ids.slice(0, 1), ids.slice(1)], adapter)).toEqual(whole);
    expect(normalisedSquaredError(whole, logits(cpu, path, [ids], adapter))).toBeLessThan(limit);
    expect(normalisedSquaredError(whole, logits(cpu, path, [ids]))).toBeGreaterThan(1e-2);
  });

  test("gpt-oss against transformers, at once and in chunks", () => {
    const tokens = goldenIds.slice(0, onFibers ? 12 : goldenIds.length);
    const whole = logits(cuda, goldenFolder, [tokens]);
    const expected = reference.subarray(0, tokens.length * vocabulary);
    expect(normalisedSquaredError(whole, expected)).toBeLessThan(goldenLimit);
    expect(logits(cuda, goldenFolder, [tokens.slice(0, 3), tokens.slice(3, 4), tokens.slice(4)])).toEqual(
      whole,
    );
  });

  test.each(["llama", "qwen2", "qwen3", "gemma3"])("%s in q8_0", (name) => {
    const shape: ModelShape = shapes[`tiny-${name}`]!;
    expect(errorOf(randomModel({ shape, dtype: "q8_0", seed: 4 }))).toBeLessThan(limit);
  });

  /** The norm over what a small memory gives magnifies the rounding of activations. */
  test.each(["qwen35", "qwen35moe"])("%s in q8_0, experts in q4_0", (name) => {
    const tiny: ModelShape = shapes[`tiny-${name}`]!;
    // all experts: where two scores are near, rounding would choose
    const shape = { ...tiny, ...(tiny.experts && { expertsUsed: tiny.experts }) };
    const error = errorOf(randomModel({ shape, dtype: "q8_0", expertDtype: "q4_0", seed: 5 }));
    expect(error).toBeLessThan(recurrentLimit);
  });

  test("qwen35 over the end of a chunk of its delta rule: in parts and one by one the bits of one pass", () => {
    const path = write(randomModel({ shape: shapes["tiny-qwen35"]!, dtype: "q8_0", seed: 8 }));
    const more = Array.from({ length: 20 }, (_, i) => (i * 37 + 11) % 300);
    const whole = logits(cuda, path, [more]);
    const parts = [more.slice(0, 13), ...more.slice(13, 18).map((id) => [id]), more.slice(18)];
    expect(logits(cuda, path, parts)).toEqual(whole);
  });

  /** Scores of normed heads, scaled by one, magnify the rounding of activations. */
  test.each(["gemma4-e", "gemma4-31b", "gemma4-moe"])("%s in q8_0, experts in q4_0", (name) => {
    const tiny: ModelShape = shapes[`tiny-${name}`]!;
    const shape = { ...tiny, window: 4, ...(tiny.experts && { expertsUsed: tiny.experts }) };
    const error = errorOf(randomModel({ shape, dtype: "q8_0", expertDtype: "q4_0", seed: 6 }));
    expect(error).toBeLessThan(recurrentLimit);
  });

  test.each(types)("llama in %s", (dtype) => {
    expect(errorOf(randomModel({ shape: shapes["tiny-llama"]!, dtype, seed: 1 }))).toBeLessThan(limit);
  });
});
