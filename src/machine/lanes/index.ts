/** What each lane does for an operation. What has no trainer here is refused by name. */
import { actualLane, appleLane, demoLane, refuse } from "../contract.ts";
import { serveCheckpoint } from "../handoff.ts";
import { validateContribution } from "../replay.ts";
import { performStage } from "../stage_run.ts";
import { deriveSurface } from "../surface.ts";
import type { Invocation } from "../surfaces.ts";
import { performDemo } from "./demo.ts";
import { demoProfile, demoReplayer } from "./demo_evidence.ts";

/** Does the operation and says in a sentence what was done; throws a `Refusal`. */
export function perform(invocation: Invocation, environment: NodeJS.ProcessEnv): string {
  const { manifest } = invocation;
  const { operation, role } = manifest;
  if (operation === "serve_checkpoint") return serveCheckpoint(invocation);
  if (role === "validator") {
    if (
      invocation.lane === demoLane &&
      manifest.validator_target_work_class !== "grouped_replica_stage_execution"
    )
      return validateContribution(invocation, { replayer: demoReplayer, profile: demoProfile });
    const what = `${manifest.validator_target_work_class} on lane ${invocation.lane.id}`;
    return refuse(
      "unsupported_topology",
      `validate_contribution of ${what}: this version cannot do that work again`,
    );
  }
  if (manifest.grouped_stage_assignment !== null && operation === "start")
    return performStage(invocation, environment);
  if (invocation.lane === demoLane) return performDemo(invocation);
  if (operation === "resume") needCheckpoint(invocation);
  return refuse("unsupported_topology", missing(invocation, environment));
}

/** Nothing to go on from is said before that nothing could go on. */
function needCheckpoint({ root, manifest }: Invocation): void {
  const surface = deriveSurface(root, manifest);
  if (surface?.pointer_state === "accepted" || surface?.pointer_state === "accepted_primary") return;
  refuse("checkpoint_missing", `no accepted checkpoint to resume from in ${root.root}`);
}

function missing({ lane, manifest }: Invocation, environment: NodeJS.ProcessEnv): string {
  const what = `${manifest.operation} of lane ${lane.id}`;
  if (lane === appleLane) {
    const stand = environment.PSIONIC_APPLE_LANE_BACKEND;
    const where = stand ? `PSIONIC_APPLE_LANE_BACKEND=${stand}` : `the metal backend on ${process.platform}`;
    return `${what} is not in this version: its windowed trainer does not run on ${where}`;
  }
  const needs = lane === actualLane ? "a windowed trainer on cuda" : "an adapter trainer on cuda";
  return `${what} is not in this version: it needs ${needs}`;
}
