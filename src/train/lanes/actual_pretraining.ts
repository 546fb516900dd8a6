/**
 * The actual pretraining lane: Psion's compact decoder, or a GPT-OSS-type model with experts, on a data set that
 * `psionic data pack` made. Microbatches are read ahead by the loader; AdamW with a warm-up and a cosine.
 */
import { resolve } from "node:path";
import { unexpected } from "../../core/error.ts";
import { type LoaderContract, usualContract } from "../../data/loader/contract.ts";
import { datasetWindows } from "../../data/loader/reader.ts";
import { datasetIdentity, type OpenDataset, openDataset } from "../../data/shards/dataset.ts";
import type { TrainedModel } from "../model.ts";
import { compactDecoder, compactDecoderInternal, compactDecoderPilot } from "../models/compact_decoder.ts";
import { type GptOssTrainingConfig, gptOss } from "../models/gpt_oss.ts";
import { adamWGroups, muonGroups } from "../optimizer/config.ts";
import { type Lane, type RunSettings, scheduleOf } from "./lane.ts";

const where = "train actual_pretraining";
/** Names the data set where --dataset does not. */
export const datasetVariable = "PSION_ACTUAL_PRETRAINING_DATASET";

/** The vocabulary and context of the internal model; of 16 experts four are used. */
export const moeInternal: GptOssTrainingConfig = {
  ...{ width: 768, layers: 12, heads: 12, kvHeads: 4, headDim: 64, window: 128 },
  ...{ experts: 16, expertsUsed: 4, expertFeedForward: 768, vocabularySize: 32768, contextLength: 8192 },
  ...{ ropeBase: 150000, ropeScaling: { type: "none" }, balance: 0.01 },
};

const small = { width: 32, layers: 2, heads: 2, vocabularySize: 1024, contextLength: 128 } as const;
const smallExperts: GptOssTrainingConfig = {
  ...{ ...small, heads: 4, kvHeads: 2, headDim: 8, window: 16, experts: 4, expertsUsed: 2 },
  ...{ expertFeedForward: 32, ropeBase: 150000, ropeScaling: { type: "none" }, balance: 0.01 },
};

/** The lane's own model first; the tiny ones are for trying a run out. */
const models: Readonly<Record<string, () => TrainedModel>> = {
  internal: () => compactDecoder(compactDecoderInternal),
  pilot: () => compactDecoder(compactDecoderPilot),
  moe: () => ({ ...gptOss(moeInternal), id: "psion-moe-decoder-internal-v1" }),
  tiny: () => compactDecoder({ ...small, id: "psion-compact-decoder-tiny-v1", headDim: 16, feedForward: 96 }),
  tiny_moe: () => ({ ...gptOss(smallExperts), id: "psion-moe-decoder-tiny-v1" }),
};

/** The data set of a run, which must be the one that it began with and of no more tokens than the model knows. */
function datasetOf(s: RunSettings, vocabularySize: number): OpenDataset {
  const dataset = openDataset(s.dataset ?? "");
  if (s.dataset_digest && dataset.manifest_digest !== s.dataset_digest) {
    const expected = `data set ${s.dataset_identity} of digest ${s.dataset_digest}`;
    const fix = "A run goes on with the data it began with; --dataset names another place of it";
    throw unexpected("digest_mismatch", String(s.dataset), expected, dataset.manifest_digest, { fix });
  }
  const { vocab_size } = dataset.tokenizer;
  if (vocab_size > vocabularySize) {
    const expected = `a tokenizer of at most ${vocabularySize} tokens, as model ${s.model} has`;
    const fix = "Pack the data with another tokenizer, or train another model";
    throw unexpected("invalid_request", String(s.dataset), expected, `one of ${vocab_size}`, { fix });
  }
  if (heldOutSplits(dataset).length === 0) {
    const fix = "Make one with psionic data split --share validation=0.01";
    throw unexpected("invalid_request", String(s.dataset), "a split besides train", "none", { fix });
  }
  return dataset;
}

/** Steps of the warm-up where nothing is said, or a tenth of the run if that is less. */
const usualWarmup = 100;

const heldOutSplits = (dataset: OpenDataset) =>
  dataset.splits.filter(({ split_name, token_count }) => split_name !== "train" && token_count > 0);

const contractOf = (s: RunSettings): LoaderContract => ({
  ...usualContract,
  shuffle_seed: s.seed,
  rows: s.sequences,
  length: s.length,
});

export const actualPretraining: Lane = {
  name: "actual_pretraining",
  id: "psion_actual_pretraining_v1",
  recipeId: "psion_actual_pretraining_recipe_v1",
  datasetIdentity: "psion_corpus_tokenized@v1",
  runPrefix: "psion-actual-pretraining",
  runFolder: "psion_actual_pretraining_runs",
  models: Object.keys(models),
  defaults: {
    ...{ lane: "actual_pretraining", model: "internal", seed: 1337, sequences: 8, accumulation: 1 },
    ...{ length: 8192, learning_rate: 4e-4, optimizer: "adam_w", precision: "f32", recompute: false },
    ...{ warm_down_steps: 0, time_budget_seconds: 0, momentum_warmup_steps: 0 },
    ...{ max_steps: 16384, steps_per_window: 256, windows_per_cadence: 1 },
    ...{ dataset: "", dataset_identity: "", dataset_digest: "" },
    ...{ warmup_steps: 0, held_out_windows: 64 },
  },
  claimBoundary: "A language model of the data set that its receipts name; figures are of this run alone.",
  // of the share that a uniform guess loses; a machine that others use too may be slow for a while
  limits: {
    ...{ heldOutShareBps: 2000, reviewScoreBps: 1000, leastThroughputRatioBps: 5000 },
    ...{ mostStepLatencyRatioBps: 20000, leastCheckpointWriteRatioBps: 1000, mostLoaderStalls: 3 },
  },
  begun(s, given) {
    const folder = s.dataset || process.env[datasetVariable];
    if (!folder) {
      const fix = `Name one that psionic data pack made, with --dataset FOLDER or ${datasetVariable}`;
      throw unexpected("invalid_request", where, "a data set", "none", { fix });
    }
    const found = openDataset(resolve(folder));
    const rises = given.warmup_steps === undefined && s.time_budget_seconds === 0 && s.warm_down_steps === 0;
    return {
      ...s,
      dataset: resolve(folder),
      dataset_identity: datasetIdentity(found),
      dataset_digest: found.manifest_digest,
      ...(rises && { warmup_steps: Math.min(usualWarmup, Math.ceil(s.max_steps / 10)) }),
    };
  },
  parts(s) {
    const model = models[s.model]!();
    const dataset = datasetOf(s, model.vocabularySize);
    const most = s.held_out_windows;
    const heldOut = heldOutSplits(dataset).map(({ split_name }) => ({
      id: split_name,
      windows: datasetWindows(dataset, split_name, s.length, most),
    }));
    return {
      model,
      train: datasetWindows(dataset, "train", s.length, s.sequences),
      feed: { dataset, contract: contractOf(s) },
      validation: heldOut[0]!.windows,
      heldOut,
      datasetDigest: dataset.manifest_digest,
      config: {
        seed: s.seed,
        sequences: s.sequences,
        accumulation: s.accumulation,
        learningRate: s.learning_rate,
        schedule: scheduleOf(s),
        groups:
          s.optimizer === "muon" ? muonGroups(10, 0, s.momentum_warmup_steps) : adamWGroups(0.01, 0.9, 0.95),
        clip: 1,
        precision: s.precision,
        recompute: s.recompute,
      },
    };
  },
};
