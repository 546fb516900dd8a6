import { PsionicError } from "../../core/error.ts";
import { actualPretraining } from "./actual_pretraining.ts";
import type { Lane } from "./lane.ts";
import { referencePilot } from "./reference_pilot.ts";

const lanes: readonly Lane[] = [referencePilot, actualPretraining];

/** Lanes that are known by name and have no trainer here yet. */
const waiting: Readonly<Record<string, string>> = {
  cs336_a1_demo: "the reference pilot trains the same parts",
};

export const laneNames: readonly string[] = lanes.map((lane) => lane.name);

/** Throws `unsupported` for a lane that does not train. */
export function laneOf(name: string): Lane {
  const found = lanes.find((lane) => lane.name === name);
  if (found) return found;
  const list = laneNames.join(", ");
  const why = waiting[name]
    ? `${name} does not train in this version: ${waiting[name]}`
    : `unsupported lane ${name}`;
  throw new PsionicError("unsupported", `[train] ${why}. Lanes: ${list}`, { lane: name, lanes: laneNames });
}
