/** Which backend a lane's work runs on; packets and evidence name it. */
import { actualLane, adapterLane, appleLane, type LaneContract, refuse } from "../contract.ts";

/** Environment variables that name what stands in for a lane's own backend. */
export const backendVariable: Readonly<Record<string, string>> = {
  [actualLane.id]: "PSIONIC_ACTUAL_LANE_BACKEND",
  [appleLane.id]: "PSIONIC_APPLE_LANE_BACKEND",
  [adapterLane.id]: "PSIONIC_ADAPTER_LANE_BACKEND",
};

const stands: Readonly<Record<string, readonly string[]>> = {
  [actualLane.id]: ["cuda", "cpu"],
  [appleLane.id]: ["metal", "cpu", "metal-standin"],
  [adapterLane.id]: ["cuda", "cpu"],
};

/** What a lane's work may run on. */
export const backendsOf = (laneId: string): readonly string[] => stands[laneId] ?? [];

/** Throws `unsupported_topology` where something is asked for that the lane does not run on. */
export function laneBackend(lane: LaneContract, environment: NodeJS.ProcessEnv): string {
  const variable = backendVariable[lane.id];
  const asked = variable === undefined ? undefined : environment[variable];
  if (variable === undefined || asked === undefined || asked === "") return lane.backend;
  const known = backendsOf(lane.id);
  if (known.includes(asked)) return asked;
  return refuse(
    "unsupported_topology",
    `${variable}: expected ${known.join(", ")}, got ${JSON.stringify(asked.slice(0, 60))}`,
  );
}
