/** Models on Metal's kernels, which the stand-in runs: against references and the CPU, at once, in parts and token by token. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { type ModelShape, type RandomModel, randomModel, shapes } from "../../scripts/random-model.ts";
import { openDevice } from "../backends/index.ts";
import { metalStandin } from "../backends/testing/metal_library.ts";
import type { DType } from "../core/dtype.ts";
import type { Device } from "../runtime/device.ts";
import { openAdapter } from "./adapter.ts";
import { defaultModelPath } from "./default_model.ts";
import { writeAdapter } from "./testing/adapters.ts";
import { golden, relativeError, sameChoices, session } from "./testing/golden.ts";
import { normalisedSquaredError, openSession } from "./testing/session.ts";
import { dequantisedTwin, temporaryFolder, writeModel } from "./testing/variants.ts";

// a busy machine runs fibers at a tenth of their speed
setDefaultTimeout(120_000);

/** f32 arithmetic against the same in another order of summation. */
const limit = 1e-10;
/** The norm over what a small memory gives magnifies the last bits. */
const recurrentLimit = 1e-8;
/** Relative error against transformers: f32 on bf16 weights in another order. */
const goldenLimit = 1e-5;

const ids = [11, 48, 85, 122, 159];
const goldens = ["gpt_oss", "qwen3_5", "qwen3_5_moe", "gemma4_e", "gemma4_26b", "gemma4_31b"];
const families = ["llama", "qwen2", "qwen3", "gemma3"];
const types: readonly DType[] = ["f16", "bf16", "q4_0", "q5_1", "q8_0", "q4_k", "q6_k", "iq4_xs", "mxfp4"];

describe.skipIf(!metalStandin)("models on Metal's kernels", () => {
  let metal: Device;
  let cpu: Device;
  const folder = temporaryFolder();
  let files = 0;
  beforeAll(() => {
    metal = openDevice("metal-standin");
    cpu = openDevice("cpu", { threads: 1 });
  });
  afterAll(() => {
    cpu.close();
    metal.close();
    folder[Symbol.dispose]();
  });

  const write = (model: RandomModel): string => writeModel(join(folder.path, `${files++}.gguf`), model);

  function logits(
    device: Device,
    path: string,
    parts: readonly (readonly number[])[],
    adapter?: string,
  ): Float32Array {
    const s = openSession(device, path, adapter === undefined ? {} : { adapter: openAdapter(adapter) });
    const result = s.run(parts);
    s.close();
    return result;
  }

  /** The error against an f32 evaluation of the same weights on the CPU; chunks and single tokens are the same bits. */
  function errorOf(model: RandomModel): number {
    const path = write(model);
    const whole = logits(metal, path, [ids]);
    expect(logits(metal, path, [ids.slice(0, 1), ids.slice(1)])).toEqual(whole);
    expect(metal.live()).toEqual({ tensors: 0, bytes: 0, scopes: 0 });
    return normalisedSquaredError(whole, logits(cpu, write(dequantisedTwin(model)), [ids]));
  }

  test("adapters add to their matrices, at once and in parts", () => {
    const model = randomModel({ shape: shapes["tiny-qwen3"]!, dtype: "f32", seed: 7 });
    const path = write(model);
    const parts = ["attn_q", "attn_v", "attn_output", "ffn_down"];
    const adapter = writeAdapter(join(folder.path, "adapter"), model, parts, 3);
    const whole = logits(metal, path, [ids], adapter);
    expect(logits(metal, path, [ids.slice(0, 1), ids.slice(1)], adapter)).toEqual(whole);
    expect(normalisedSquaredError(whole, logits(cpu, path, [ids], adapter))).toBeLessThan(limit);
    expect(normalisedSquaredError(whole, logits(cpu, path, [ids]))).toBeGreaterThan(1e-2);
  });

  for (const name of goldens) {
    const reference = golden(name);
    const reason = reference ? "" : " (not in the fixtures: PSIONIC_GOLDEN names a folder that has it)";
    test.skipIf(!reference)(`${name} gives transformers' logits, at once and in parts${reason}`, () => {
      const { ids, logits } = reference!;
      const s = session(metal, reference!, "f32");
      const whole = s.run([ids]);
      expect(relativeError(whole, logits)).toBeLessThan(goldenLimit);
      expect(sameChoices(whole, reference!)).toBe(true);
      expect(s.run([ids.slice(0, 3), ids.slice(3, 4), ids.slice(4)])).toEqual(whole);
      s.close();
      expect(metal.live()).toEqual({ tensors: 0, bytes: 0, scopes: 0 });
    });
  }

  test("the built-in model's greedy tokens are the CPU's", () => {
    const prompt = [11, 48, 85, 122, 159, 7, 301, 2];
    const greedy = (device: Device): number[] => {
      const s = openSession(device, defaultModelPath(), { cacheType: "f16" });
      const tokens = [...prompt];
      for (let i = 0; i < 6; i++) {
        const last = s.run([tokens]).slice(-s.model.config.vocabularySize);
        tokens.push(last.indexOf(Math.max(...last)));
      }
      s.close();
      return tokens.slice(prompt.length);
    };
    expect(greedy(metal)).toEqual(greedy(cpu));
  });

  test.each(families)("%s in q8_0", (name) => {
    const shape: ModelShape = shapes[`tiny-${name}`]!;
    expect(errorOf(randomModel({ shape, dtype: "q8_0", seed: 4 }))).toBeLessThan(limit);
  });

  test.each(["qwen35", "qwen35moe"])("%s in q8_0, experts in q4_0", (name) => {
    const shape: ModelShape = shapes[`tiny-${name}`]!;
    const model = randomModel({ shape, dtype: "q8_0", expertDtype: "q4_0", seed: 5 });
    expect(errorOf(model)).toBeLessThan(recurrentLimit);
  });

  test.each(types)("llama in %s", (dtype) => {
    expect(errorOf(randomModel({ shape: shapes["tiny-llama"]!, dtype, seed: 1 }))).toBeLessThan(limit);
  });
});
