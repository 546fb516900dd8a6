import { PsionicError } from "../../core/error.ts";
import { actualPretraining } from "./actual_pretraining.ts";
import { cs336A1Demo } from "./cs336_a1_demo.ts";
import type { Lane } from "./lane.ts";
import { referencePilot } from "./reference_pilot.ts";

const lanes: readonly Lane[] = [referencePilot, actualPretraining, cs336A1Demo];

export const laneNames: readonly string[] = lanes.map((lane) => lane.name);

/** Throws `unsupported` for a lane that does not train. */
export function laneOf(name: string): Lane {
  const found = lanes.find((lane) => lane.name === name);
  if (found) return found;
  const list = laneNames.join(", ");
  throw new PsionicError("unsupported", `[train] unsupported lane ${name}. Lanes: ${list}`, {
    lane: name,
    lanes: laneNames,
  });
}
