/**
 * Streams of one engine's scheduler, by their number and sampling: chosen by the host after each step, chosen on the device
 * step by step, and with the next step under way before the last one is read. The tokens are the same in all three.
 */
import type { StepExecutor } from "../../src/serve/engine/batch.ts";
import { loadEngine } from "../../src/serve/engine/load.ts";
import type { LoadedEngine } from "../../src/serve/engine/loop.ts";
import { Scheduler } from "../../src/serve/engine/scheduler.ts";
import type { GenerateRequest, SamplingParams } from "../../src/serve/protocol.ts";
import type { Check } from "./check.ts";

const tokens = Number(process.env.GPU_CHECK_TOKENS ?? 192);
const prompt = 24;
const streamCounts = (process.env.GPU_CHECK_STREAMS ?? "1,8,64").split(",").map(Number);

const kinds: readonly (readonly [string, SamplingParams, Partial<GenerateRequest>])[] = [
  ["greedy", {}, {}],
  ["drawn, top-k 40, top-p 0.95", { temperature: 1, topK: 40, topP: 0.95 }, {}],
  ["drawn, top-p 0.95 of all", { temperature: 1, topK: 0, topP: 0.95 }, {}],
  ["drawn, 5 log-probabilities", { temperature: 1, topK: 40, topP: 0.95 }, { topLogprobs: 5 }],
  ["drawn, repeat penalty", { temperature: 1, repeatPenalty: 1.1 }, {}],
];

/** How tokens are chosen, slowest first. */
const ways = ["host", "device", "ahead"] as const;
type Way = (typeof ways)[number];

export async function streams({ backend, largeModel, report }: Check): Promise<void> {
  const slots = Math.max(...streamCounts);
  const options = { modelPath: largeModel, backend, slots, contextLength: 512 } as const;
  const engine = await loadEngine(options, () => {});
  try {
    for (const [name, sampling, more] of kinds) {
      for (const count of streamCounts) {
        const asked = requests(count, engine.info.model.vocabularySize, sampling, more);
        const runs = ways.map((way) => {
          run(
            engine,
            way,
            asked.map((ask) => ({ ...ask, maxTokens: 8 })),
          ); // steps of this size are recorded
          return run(engine, way, asked);
        });
        const same = runs.every((r) => Bun.deepEquals(r.tokens, runs[0]!.tokens));
        const rates = runs.map((r, i) => `${ways[i]} ${r.rate.toFixed(0)}`);
        report({
          what: `${count} streams, ${name}: ${rates.join(", ")} tok/s`,
          required: "the same tokens in each way",
          got: same ? `the same; ahead x ${(runs[2]!.rate / runs[0]!.rate).toFixed(2)} of host` : "others",
          ok: same,
        });
      }
    }
  } finally {
    engine.close();
  }
}

function requests(
  count: number,
  vocabularySize: number,
  sampling: SamplingParams,
  more: Partial<GenerateRequest>,
): GenerateRequest[] {
  return Array.from({ length: count }, (_, s) => ({
    prompt: Array.from({ length: prompt }, (_, i) => ((i + 1) * (s * 7919 + 104_729)) % vocabularySize),
    ...{ sampling: { ...sampling, seed: s + 1 }, stopTokens: [], choices: 1, maxTokens: tokens },
    ...{ prefixCache: "bypass" as const, ...more },
  }));
}

type Run = { readonly tokens: readonly (readonly number[])[]; readonly rate: number };

/** Runs requests to their end; tokens a second from the step on in which the last one began to generate. */
function run(engine: LoadedEngine, way: Way, asked: readonly GenerateRequest[]): Run {
  const { groups, stateSlots, info, promptLimits } = engine;
  const { slots, maxQueue, contextLength } = info;
  const got: number[][] = asked.map(() => []);
  const scheduler = new Scheduler({
    ...{ executor: executorOf(engine, way), groups, slots, maxQueue, contextLength },
    ...(promptLimits && { promptLimits }),
    ...(stateSlots && { stateSlots }),
    emit(id, event) {
      if (event.type === "token") got[id]!.push(event.token);
    },
    fail(_id, error) {
      throw error;
    },
  });
  for (const [id, { constraint: _, ...ask }] of asked.entries()) scheduler.submit(id, ask);
  while (got.some((list) => list.length === 0)) scheduler.step();
  const before = got.reduce((n, list) => n + list.length, 0);
  const start = performance.now();
  while (scheduler.step()) {
    // to its end
  }
  const seconds = (performance.now() - start) / 1000;
  const made = got.reduce((n, list) => n + list.length, 0) - before;
  return { tokens: got, rate: made / seconds };
}

function executorOf({ executor }: LoadedEngine, way: Way): StepExecutor {
  if (way === "ahead") return executor;
  const { vocabularySize, chooses = false } = executor;
  return {
    vocabularySize,
    chooses: way === "device" && chooses,
    run: (batch, read, meanwhile) => executor.run(batch, read, meanwhile),
    copyState: (from, to) => executor.copyState(from, to),
  };
}
