/**
 * The reference pilot: the compact decoder, all of it, on the few kilobytes of the reference corpus, on this machine's
 * processor in under a minute. It shows that training works; the model it makes knows 200 words.
 */
import { windowsOf } from "../../data/batches.ts";
import { referenceCorpus } from "../../data/reference_corpus.ts";
import type { TrainedModel } from "../model.ts";
import { compactDecoder, compactDecoderPilot } from "../models/compact_decoder.ts";
import { gptOss } from "../models/gpt_oss.ts";
import { gpt2 } from "../models/gpt2.ts";
import { adamWGroups, muonGroups } from "../optimizer/config.ts";
import { type Lane, scheduleOf } from "./lane.ts";

const small = { width: 32, layers: 2, heads: 2, vocabularySize: 256, contextLength: 64 } as const;

/** The pilot's own model first; the others are small ones of each kind, for trying a run out. */
const models: Readonly<Record<string, () => TrainedModel>> = {
  pilot: () => compactDecoder(compactDecoderPilot),
  tiny: () => compactDecoder({ ...small, id: "psion-compact-decoder-tiny-v1", headDim: 16, feedForward: 96 }),
  tiny_gpt2: () => gpt2(small),
  tiny_gpt_oss: () =>
    gptOss({
      ...small,
      ...{ heads: 4, kvHeads: 2, headDim: 8, window: 16, experts: 4, expertsUsed: 2, expertFeedForward: 32 },
      ...{ ropeBase: 150000, ropeScaling: { type: "none" }, balance: 0.01 },
    }),
};

export const referencePilot: Lane = {
  name: "reference_pilot",
  id: "psion_reference_pilot_v1",
  recipeId: "psion_reference_pilot_recipe_v1",
  datasetIdentity: "psion_reference_tokenized@v1",
  runPrefix: "psion-reference-pilot",
  runFolder: "psion_reference_pilot_runs",
  models: Object.keys(models),
  defaults: {
    ...{ lane: "reference_pilot", model: "pilot", seed: 1337, sequences: 16, accumulation: 1, length: 32 },
    ...{ learning_rate: 5e-4, optimizer: "adam_w", precision: "f32", recompute: false },
    ...{ warm_down_steps: 0, time_budget_seconds: 0, momentum_warmup_steps: 0 },
    ...{ max_steps: 16, steps_per_window: 8, windows_per_cadence: 1 },
  },
  claimBoundary: "A bounded run on a few kilobytes of text; it shows a falling loss, not a useful model.",
  // the limits of speed are wide, since a step of a small model takes a few milliseconds of a machine that others use too
  limits: {
    ...{ heldOutShareBps: 500, reviewScoreBps: 200, leastThroughputRatioBps: 2500 },
    ...{ mostStepLatencyRatioBps: 40000, leastCheckpointWriteRatioBps: 500, mostLoaderStalls: 1 },
  },
  parts(s) {
    const corpus = referenceCorpus();
    return {
      model: models[s.model]!(),
      train: windowsOf(
        corpus.train.map(({ tokens }) => tokens),
        s.length,
        Math.max(1, Math.floor(s.length / 8)),
      ),
      validation: windowsOf(
        corpus.validation.map(({ tokens }) => tokens),
        s.length,
        s.length,
      ),
      heldOut: corpus.validation.map(({ section, tokens }) => {
        const length = Math.min(s.length, tokens.length - 1);
        return { id: section.source, windows: windowsOf([tokens], length, length) };
      }),
      datasetDigest: corpus.digest,
      config: {
        seed: s.seed,
        sequences: s.sequences,
        accumulation: s.accumulation,
        learningRate: s.learning_rate,
        schedule: scheduleOf(s),
        groups:
          s.optimizer === "muon" ? muonGroups(10, 0, s.momentum_warmup_steps) : adamWGroups(0.01, 0.9, 0.99),
        clip: 1,
        precision: s.precision,
        recompute: s.recompute,
      },
    };
  },
};
