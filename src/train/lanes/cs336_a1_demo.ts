/**
 * The CS336 A1 demo: a decoder of 1,070 weights on 45 bytes of text, four steps, with gradients by the tape as everywhere.
 * It shows a lane from its first step to its closeout within a second.
 */
import { sha256 } from "../../core/digest.ts";
import { windowsOf } from "../../data/batches.ts";
import { cs336, cs336Demo } from "../models/cs336.ts";
import { adamWGroups } from "../optimizer/config.ts";
import { type Lane, scheduleOf } from "./lane.ts";

/** The first line has 22 windows of two bytes and their successors; a step takes all. */
const corpus = "the cat sat on the mat.\nthe cat saw the mat.\n";
/** The rate's end, as a share of its height. */
const leastShare = 0.02 / 0.15;

export const cs336A1Demo: Lane = {
  name: "cs336_a1_demo",
  id: "psion_cs336_a1_demo_v1",
  recipeId: "psion_cs336_a1_demo_recipe_v1",
  datasetIdentity: "psion_cs336_a1_demo_bytes@v1",
  runPrefix: "psion-cs336-a1-demo",
  runFolder: "psion_cs336_a1_demo_runs",
  models: ["demo"],
  defaults: {
    ...{ lane: "cs336_a1_demo", model: "demo", seed: 1337, sequences: 22, accumulation: 1, length: 2 },
    ...{ learning_rate: 0.15, optimizer: "adam_w", precision: "f32", recompute: false },
    ...{ warm_down_steps: 0, time_budget_seconds: 0, momentum_warmup_steps: 0 },
    ...{ max_steps: 4, steps_per_window: 2, windows_per_cadence: 1, warmup_steps: 1 },
  },
  claimBoundary: "A bounded run on 45 bytes; it shows a lane's life, not a useful model.",
  // four steps of a fraction of a millisecond say nothing about speed
  limits: {
    ...{ heldOutShareBps: 100, reviewScoreBps: 50, leastThroughputRatioBps: 500 },
    ...{ mostStepLatencyRatioBps: 200000, leastCheckpointWriteRatioBps: 500, mostLoaderStalls: 1 },
  },
  parts(s) {
    const bytes = Int32Array.from(new TextEncoder().encode(corpus));
    // the second line is held out
    const second = corpus.indexOf("\n") + 1;
    const validation = windowsOf([bytes.subarray(second)], s.length, 1);
    const schedule = scheduleOf(s);
    return {
      model: cs336(cs336Demo),
      train: windowsOf([bytes.subarray(0, second)], s.length, 1),
      validation,
      heldOut: [{ id: "second_line", windows: validation }],
      datasetDigest: sha256(corpus),
      config: {
        ...{ seed: s.seed, sequences: s.sequences, accumulation: s.accumulation },
        learningRate: s.learning_rate,
        schedule:
          schedule.kind === "warmup_cosine"
            ? { ...schedule, min_learning_rate: leastShare * s.learning_rate }
            : schedule,
        groups: adamWGroups(0),
        clip: 1,
        precision: s.precision,
        recompute: s.recompute,
      },
    };
  },
};
