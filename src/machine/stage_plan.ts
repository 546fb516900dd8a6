/** What the stages of a group train: the lane's profile, without what only a host of the whole model could do. */
import type { StagePlace } from "../train/pipeline.ts";
import { type LaneContract, refuse } from "./contract.ts";
import { sealed } from "./documents.ts";
import { type LaneProfile, laneProfile } from "./evidence.ts";
import { builtInProfile, profileOf } from "./lanes/profile.ts";
import { planWindow, type WindowPlan } from "./lanes/window_plan.ts";
import { laneProfilePath } from "./layout.ts";
import type { StageAssignment } from "./manifest.ts";
import type { RunRoot } from "./run_root.ts";

export type StagePlan = WindowPlan;

/** The largest limit of the norm that a profile can name; no gradient comes near it, so it stands for none. */
const noClip = 1e9;

/** The profile in the run root, else the lane's own small one without a limit of the norm. */
export function stageProfile(root: RunRoot, lane: LaneContract): LaneProfile {
  if (root.has(laneProfilePath)) return profileOf(root, lane);
  return groupedProfile(lane);
}

/** The built-in profile of a lane as stages train it. */
export function groupedProfile(lane: LaneContract): LaneProfile {
  const own = builtInProfile(lane);
  if (!own) return refuse("unsupported_topology", `lane ${lane.id} has no stages`);
  const settings = own.optimizer.settings.map((s) =>
    s.name === "clip" ? { ...s, value: String(noClip) } : s,
  );
  return sealed(laneProfile, { ...own, optimizer: { ...own.optimizer, settings } });
}

export const stagePlan = (root: RunRoot, lane: LaneContract): StagePlan =>
  plannedStages(stageProfile(root, lane), (path) => root.bytes(path));

/** Refuses `bad_config` what stages cannot do: a profile that clips by the norm of all stages together. */
export function plannedStages(profile: LaneProfile, files: (path: string) => Uint8Array): StagePlan {
  const plan = planWindow(profile, files);
  const wrong = (what: string): never => refuse("bad_config", `lane profile for grouped stages: ${what}`);
  if (plan.adapter) wrong("adapters are not trained in stages");
  if (!plan.model.parts) wrong("the model's parts share weights; own_head true gives the head its own");
  if (plan.config.accumulation !== 1) wrong("expected accumulation 1");
  if (plan.config.clip < noClip)
    wrong(
      `clip ${plan.config.clip} is of the norm over all stages, which no stage knows; expected ${noClip}`,
    );
  return { ...plan, config: { ...plan.config, clip: Number.POSITIVE_INFINITY } };
}

export const placeOf = (stage: StageAssignment): StagePlace => ({
  index: stage.stage_index,
  count: stage.stage_count,
});
