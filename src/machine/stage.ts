/** Grouped stages: which places a chain has, and what passes between them. */
import { refuse } from "./contract.ts";
import { isBlank } from "./fields.ts";
import { type StageAssignment, stageDigest } from "./manifest.ts";

/** Throws `grouped_stage_assignment_invalid` where an assignment is none of a chain of stages. */
export function checkStage(stage: StageAssignment): void {
  const wrong = (detail: string): never =>
    refuse("grouped_stage_assignment_invalid", `grouped_stage_assignment: ${detail}`);
  const { stage_index: index, stage_count: stages, upstream_stage_id: up, downstream_stage_id: down } = stage;
  for (const key of ["replica_id", "stage_id", "upstream_stage_id", "downstream_stage_id"] as const) {
    const value = stage[key];
    if (value !== null && isBlank(value)) wrong(`${key} is blank`);
  }
  if (stages < 2) wrong(`a group has at least 2 stages, got ${stages}`);
  if (index >= stages) wrong(`stage_index ${index} is not below stage_count ${stages}`);
  const role = index === 0 ? "ingress" : index === stages - 1 ? "egress" : "intermediate";
  if (stage.stage_role !== role) wrong(`stage ${index} of ${stages} is ${role}, got ${stage.stage_role}`);
  if ((up === null) !== (index === 0))
    wrong(`stage ${index} of ${stages} has ${up === null ? "no" : "an"} upstream`);
  if ((down === null) !== (index === stages - 1))
    wrong(`stage ${index} of ${stages} has ${down === null ? "no" : "a"} downstream`);
  const names = [stage.stage_id, up, down].filter((id) => id !== null);
  if (new Set(names).size < names.length) wrong("a stage and its neighbours need different ids");
  const digest = stageDigest(stage);
  if (stage.assignment_digest !== digest) wrong(`assignment_digest must be ${digest}`);
}
