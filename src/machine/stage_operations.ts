/** What a grouped stage does for an operation, on every lane that has stages. */
import { refuse } from "./contract.ts";
import { recordGeneric } from "./lanes/windowed.ts";
import { recoveryPath } from "./layout.ts";
import { recoverStage } from "./stage_recovery.ts";
import { performStage } from "./stage_run.ts";
import type { Invocation } from "./surfaces.ts";

/** Does the operation and says in a sentence what was done. */
export function performGrouped(invocation: Invocation, environment: NodeJS.ProcessEnv): string {
  const { manifest, root, lane } = invocation;
  switch (manifest.operation) {
    case "start":
    case "rehearse_base_lane":
      return performStage(invocation, environment);
    case "record_checkpoint": {
      const said = recordGeneric(invocation);
      // what was recovered once is not where this checkpoint comes from
      root.remove(recoveryPath);
      return said;
    }
    case "backup":
      return `Stages of lane ${lane.id} keep no files of their own for backup; status was written.`;
    case "resume":
      return recoverStage(invocation);
    default:
      return refuse("grouped_stage_assignment_invalid", `a grouped stage has no ${manifest.operation}`);
  }
}
