/** What each lane does for an operation. */

import { actualLane, demoLane, refuse } from "../contract.ts";
import { serveCheckpoint } from "../handoff.ts";
import { bringHandoff } from "../handoff_bring.ts";
import type * as Handoff from "../handoff_resume.ts";
import { pointerPath } from "../layout.ts";
import { validateContribution } from "../replay.ts";
import type { LaneWork } from "../replay_grounds.ts";
import type * as StageSession from "../replay_stage_session.ts";
import type * as Stage from "../stage_operations.ts";
import type { Invocation } from "../surfaces.ts";
import type * as Actual from "./actual.ts";
import { performDemo } from "./demo.ts";
import { demoProfile, demoReplayer } from "./demo_evidence.ts";
import { backendVariable } from "./lane_backend.ts";
import type * as Profile from "./profile.ts";
import type * as Replay from "./window_replay.ts";
import type * as Windowed from "./windowed.ts";

/** What trains is loaded where it is used: most refusals are told without it, and soon. */
const load = {
  handoff: () => require("../handoff_resume.ts") as typeof Handoff,
  stage: () => require("../stage_operations.ts") as typeof Stage,
  actual: () => require("./actual.ts") as typeof Actual,
  windowed: () => require("./windowed.ts") as typeof Windowed,
  profile: () => require("./profile.ts") as typeof Profile,
  replay: () => require("./window_replay.ts") as typeof Replay,
  stageSession: () => require("../replay_stage_session.ts") as typeof StageSession,
};

/** Does the operation and says in a sentence what was done; throws a `Refusal`. */
export function perform(invocation: Invocation, environment: NodeJS.ProcessEnv): string {
  const { manifest, lane } = invocation;
  const { operation, role } = manifest;
  if (operation === "serve_checkpoint") return serveCheckpoint(invocation);
  if (role === "validator") return validateContribution(invocation, workOf(invocation));
  if (operation === "resume") needCheckpoint(invocation);
  needPlatform(invocation);
  if (manifest.peer_checkpoint_handoff_receipt !== null) load.handoff().takeOver(invocation, bringHandoff);
  if (manifest.grouped_stage_assignment !== null) return load.stage().performGrouped(invocation, environment);
  if (lane === demoLane) return performDemo(invocation);
  return lane === actualLane
    ? load.actual().performActual(invocation)
    : load.windowed().performWindowed(invocation);
}

/** How a validator does the work of a lane again. */
function workOf({ lane, manifest, capability }: Invocation): LaneWork {
  const grouped = manifest.validator_target_work_class === "grouped_replica_stage_execution";
  if (lane === demoLane && !grouped) return { replayer: demoReplayer, profile: demoProfile };
  const open = grouped ? load.stageSession().stageSession : undefined;
  return {
    replayer: load.replay().windowReplayer(capability.backend_family, open),
    profile: ({ root }) => load.profile().profileOf(root, lane),
  };
}

/** Nothing to go on from is said before that nothing could go on; the actual lane looks for a backup first. */
function needCheckpoint({ root, manifest, lane }: Invocation): void {
  if (lane === actualLane || root.has(pointerPath)) return;
  if (manifest.peer_checkpoint_handoff_receipt === null)
    refuse("checkpoint_missing", `no accepted checkpoint to resume from in ${root.root}`);
}

/** The Apple lane is for Apple's machines, whatever the operation, unless something stands in for its backend. */
function needPlatform({ lane, capability }: Invocation): void {
  if (capability.backend_family !== "metal" || process.platform === "darwin") return;
  refuse(
    "unsupported_topology",
    `lane ${lane.id} runs on the metal backend, which ${process.platform} does not have; ${backendVariable[lane.id]}=cpu or metal-standin names what stands in for it`,
  );
}
