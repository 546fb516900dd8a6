/** The engine on CUDA, in its worker: few tokens, since without a device its kernels run on fibers of the CPU. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { cudaLibrary, withCudaLibrary } from "../../backends/testing/cuda_library.ts";
import type { PsionicError } from "../../core/error.ts";
import { openModelFiles } from "../../models/files/source.ts";
import type { GenerateEvent, GenerateRequest } from "../protocol.ts";
import { type EngineClient, startEngine } from "./index.ts";
import { planModel } from "./model_plan.ts";

const modelPath = join(import.meta.dir, "../../../fixtures/docs-oss-13m-mxfp4.gguf");
const options = { modelPath, backend: "cuda", slots: 4, contextLength: 256 } as const;
const gib = 2 ** 30;

const request = (prompt: readonly number[], more: Partial<GenerateRequest> = {}): GenerateRequest => ({
  ...{ prompt, sampling: {}, stopTokens: [], choices: 1, maxTokens: 3, topLogprobs: 2, ...more },
});

/** Tokens with their log-probabilities: equal only when every logit that counts is equal to the last bit. */
async function answer(engine: EngineClient, ask: GenerateRequest): Promise<unknown[]> {
  const tokens: unknown[] = [];
  for await (const event of engine.generate(ask)) {
    const e: GenerateEvent = event;
    if (e.type === "token") tokens.push([e.choice, e.token, e.logprob, e.top]);
  }
  return tokens;
}

describe.skipIf(!cudaLibrary)("the engine on CUDA", () => {
  let engine: EngineClient;
  beforeAll(async () => {
    engine = await withCudaLibrary(() => startEngine(options));
  });
  afterAll(() => engine.close(true));

  test("says where it computes and what it takes", () => {
    const { backend, device, memory } = engine.info;
    expect(backend).toEqual({
      backend: "cuda",
      executionMode: "native",
      executionEngine: "psionic",
      residencyMode: "cuda_accelerated",
      hybridOffload: "unsupported",
      fallbackPolicy: "refuse",
      performanceClass: "nvidia_native",
    });
    expect(device?.device).toBeString();
    expect(memory.weightBytes).toBeGreaterThan(2 ** 20);
  });

  test("alone, beside others and from a warm cache an answer has the same bits", async () => {
    const prompt = Array.from({ length: 34 }, (_, i) => (i * 97 + 5) % 6000);
    const alone = await answer(engine, request(prompt, { prefixCache: "bypass" }));
    expect(alone).toHaveLength(3);
    const others = [1, 2].map((n) => answer(engine, request(prompt.slice(n * 14), { maxTokens: 4 })));
    const together = await answer(engine, request(prompt));
    await Promise.all(others);
    expect(together).toEqual(alone);
    expect(await answer(engine, request(prompt))).toEqual(alone);
    const ask = request(prompt.slice(28), { sampling: { temperature: 1.5, topK: 50, seed: 5 } });
    const drawn = await answer(engine, ask);
    const beside = answer(engine, request(prompt.slice(30), { maxTokens: 4 }));
    expect(await answer(engine, ask)).toEqual(drawn);
    await beside;
    expect(engine.stats().arenaPeakBytes).toBeLessThanOrEqual(engine.info.memory.workspaceBytes);
  }, 400_000);
});

describe.skipIf(!cudaLibrary)("what is refused on CUDA", () => {
  const refusal = (more: object, available = 4 * gib): PsionicError => {
    try {
      planModel(openModelFiles(modelPath), { ...options, ...more }, available);
    } catch (error) {
      return error as PsionicError;
    }
    throw new Error("expected a refusal");
  };

  test("fewer layers than the model has, with both numbers", () => {
    const error = refusal({ gpuLayers: 3 });
    expect(error.code).toBe("unsupported");
    expect(error.message).toContain("[-ngl] expected all 6 layers");
    expect(error.details).toEqual({ layers: 6, asked: 3 });
    for (const gpuLayers of [-1, 6, 99]) planModel(openModelFiles(modelPath), { ...options, gpuLayers }, gib);
  });

  test("what does not fit into the device's memory, with the numbers", () => {
    const error = refusal({}, 100 * 2 ** 20);
    expect(error.code).toBe("admission_refused");
    expect(error.message).toContain("in 100 MiB free");
  });

  test("the plan counts weights as the CUDA library packs them, tables included", () => {
    const cpu = planModel(openModelFiles(modelPath), { ...options, backend: "cpu" }, 4 * gib);
    const cuda = planModel(openModelFiles(modelPath), options, 4 * gib);
    expect(cuda.memory.weightBytes).toBeGreaterThan(cpu.memory.weightBytes);
    expect(cuda.groups.map(({ window }) => window)).toEqual(cpu.groups.map(({ window }) => window));
  });
});
