/** What the stages of a group train: the lane's profile, without what only a host of the whole model can do. */
import type { StagePlace } from "../train/pipeline.ts";
import { type LaneContract, refuse } from "./contract.ts";
import type { LaneProfile } from "./evidence.ts";
import { profileOf } from "./lanes/profile.ts";
import { planWindow, type WindowPlan } from "./lanes/window_plan.ts";
import type { StageAssignment } from "./manifest.ts";
import type { RunRoot } from "./run_root.ts";

export type StagePlan = WindowPlan;

/** The largest limit of the norm that a profile can name; no gradient comes near it, so it stands for none. */
const noClip = 1e9;

export const stagePlan = (root: RunRoot, lane: LaneContract): StagePlan =>
  plannedStages(profileOf(root, lane), (path) => root.bytes(path));

/** Refuses `bad_config` what stages cannot do. */
export function plannedStages(profile: LaneProfile, files: (path: string) => Uint8Array): StagePlan {
  const plan = planWindow(profile, files);
  const wrong = (what: string): never => refuse("bad_config", `lane profile for grouped stages: ${what}`);
  if (plan.adapter) wrong("adapters are not trained in stages");
  if (!plan.model.parts) wrong("the model's parts share weights; own_head true gives the head its own");
  if (plan.config.accumulation !== 1) wrong("expected accumulation 1");
  const clip = plan.config.clip < noClip ? plan.config.clip : Number.POSITIVE_INFINITY;
  return { ...plan, config: { ...plan.config, clip } };
}

export const placeOf = (stage: StageAssignment): StagePlace => ({
  index: stage.stage_index,
  count: stage.stage_count,
});
