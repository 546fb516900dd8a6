/** What a lane trains: the profile in its run root, else the lane's own small one. */
import { referenceCorpus } from "../../data/reference_corpus.ts";
import { actualLane, adapterLane, appleLane, type LaneContract, refuse } from "../contract.ts";
import { parsed, sealed, verified } from "../documents.ts";
import { type LaneProfile, laneProfile } from "../evidence.ts";
import { isPlainObject } from "../fields.ts";
import { laneProfilePath } from "../layout.ts";
import type { RunRoot } from "../run_root.ts";
import { docsBaseDigest, docsBaseName, encodedDocs } from "./docs_base.ts";
import { settingsOf } from "./profile_settings.ts";
import { referenceText } from "./window_plan.ts";

/** 41,000 parameters in parts that stages can share out. */
const smallDecoder = {
  name: "compact_decoder",
  settings: settingsOf({
    ...{ width: 32, layers: 4, heads: 2, head_dim: 16, feed_forward: 64 },
    ...{ vocabulary: 256, context: 64, own_head: true },
  }),
};

const windowed = {
  model: smallDecoder,
  steps: 8,
  optimizer: {
    name: "adam_w",
    settings: settingsOf({
      ...{ learning_rate: 0.001, sequences: 4, accumulation: 1, length: 32, stride: 4 },
      ...{ beta1: 0.9, beta2: 0.95, weight_decay: 0.01, clip: 1, precision: "f32", retain_every: 2 },
    }),
  },
};

/** What a lane trains where nothing else is said; data are the reference corpus. */
type Own = Pick<LaneProfile, "model" | "steps" | "optimizer" | "seed">;

const own: Readonly<Record<string, Own>> = {
  [actualLane.id]: { seed: "1337", ...windowed },
  [appleLane.id]: { seed: "2024", ...windowed },
  [adapterLane.id]: {
    ...{ seed: "4242", steps: 8 },
    model: {
      name: docsBaseName,
      settings: settingsOf({ adapter_rank: 4, adapter_alpha: 8, adapter_targets: "q_proj,v_proj" }),
    },
    optimizer: {
      name: "adam_w",
      settings: settingsOf({
        ...{ learning_rate: 0.001, sequences: 2, accumulation: 1, length: 48, stride: 16 },
        ...{ beta1: 0.9, beta2: 0.95, weight_decay: 0, clip: 1, precision: "f32", retain_every: 2 },
      }),
    },
  },
};

/** The profile of a lane whose run root has none; undefined for a lane that keeps its own rules. */
export function builtInProfile(lane: LaneContract): LaneProfile | undefined {
  const asked = own[lane.id];
  if (!asked) return undefined;
  const corpus = referenceCorpus();
  const adapters = lane.id === adapterLane.id;
  const texts = adapters
    ? encodedDocs(corpus.train.map(({ section }) => section.text))
    : corpus.train.map(({ tokens }) => tokens);
  return sealed(laneProfile, {
    lane_id: lane.id,
    model: asked.model,
    base_digest: adapters ? docsBaseDigest() : null,
    data: [{ identity: adapters ? referenceText : corpus.identity, digest: corpus.digest }],
    ...{ token_start: 0, token_end: texts.reduce((sum, { length }) => sum + length, 0) },
    ...{ steps: asked.steps, seed: asked.seed, optimizer: asked.optimizer },
  });
}

/** A profile that was written by hand may leave its digest out; one that has it is held to it. */
function readProfile(root: RunRoot): LaneProfile {
  const [value, where] = [root.json(laneProfilePath), root.path(laneProfilePath)];
  if (!isPlainObject(value) || "profile_digest" in value) return verified(laneProfile, value, where);
  return sealed(laneProfile, parsed(laneProfile, { ...value, profile_digest: "" }, where));
}

/** Throws `bad_config` for a profile that does not parse or is another lane's. */
export function profileOf(root: RunRoot, lane: LaneContract): LaneProfile {
  if (!root.has(laneProfilePath))
    return (
      builtInProfile(lane) ?? refuse("unsupported_topology", `lane ${lane.id} has no profile of its own`)
    );
  let found: LaneProfile;
  try {
    found = readProfile(root);
  } catch (cause) {
    return refuse("bad_config", cause instanceof Error ? cause.message : String(cause), cause);
  }
  if (found.lane_id === lane.id) return found;
  return refuse("bad_config", `${root.path(laneProfilePath)} is of lane ${found.lane_id}, not ${lane.id}`);
}
