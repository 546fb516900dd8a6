/** Vectors and the prefix cache's files on CUDA; without a device its kernels run on fibers of the CPU, so texts are short. */
import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { randomModel, shapes } from "../../../scripts/random-model.ts";
import { cudaLibrary, withCudaLibrary } from "../../backends/testing/cuda_library.ts";
import { temporaryFolder, writeModel } from "../../models/testing/variants.ts";
import type { GenerateEvent, GenerateRequest } from "../protocol.ts";
import { type EngineClient, startEngine } from "./index.ts";

const folder = temporaryFolder();
afterAll(() => folder[Symbol.dispose]());

const words = (seed: number, length: number) => Array.from({ length }, (_, i) => (i * 37 + seed * 11) % 300);
const request = (prompt: readonly number[], more: Partial<GenerateRequest> = {}): GenerateRequest => ({
  ...{ prompt, sampling: {}, stopTokens: [], choices: 1, maxTokens: 3, topLogprobs: 2, ...more },
});

async function all(engine: EngineClient, ask: GenerateRequest): Promise<GenerateEvent[]> {
  const events: GenerateEvent[] = [];
  for await (const event of engine.generate(ask)) events.push(event);
  return events;
}

const answer = (events: readonly GenerateEvent[]) =>
  events.flatMap((e) => (e.type === "token" ? [[e.token, e.logprob, e.top]] : []));

describe.skipIf(!cudaLibrary)("on CUDA", () => {
  test("a chat goes on after a restart, a vector is the same beside it", async () => {
    const options = { shape: shapes["tiny-qwen35"]!, dtype: "q8_0", seed: 31 } as const;
    const modelPath = writeModel(join(folder.path, "tiny.gguf"), randomModel(options));
    const prefixDisk = { folder: join(folder.path, "store"), limitBytes: 2 ** 30 };
    const start = () =>
      withCudaLibrary(() =>
        startEngine({ modelPath, backend: "cuda", slots: 2, contextLength: 256, prefixDisk }),
      );
    const vector = request(words(9, 20), { embedding: true, maxTokens: 0 });
    const ofVector = (events: readonly GenerateEvent[]) => events.filter(({ type }) => type === "embedding");
    const first = await start();
    const cold = await all(first, request(words(1, 110)));
    const alone = ofVector(await all(first, vector));
    expect(alone).toHaveLength(1);
    await first.close();
    const again = await start();
    const [warm, beside] = await Promise.all([all(again, request(words(1, 110))), all(again, vector)]);
    expect(warm.at(-1)).toMatchObject({ cachedTokens: 96 });
    expect(answer(warm)).toEqual(answer(cold));
    expect(ofVector(beside)).toEqual(alone);
    await again.close();
  }, 240_000);
});
