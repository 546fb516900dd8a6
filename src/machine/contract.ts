/** Names of the contract: roles, operations, work classes, refusal classes with what each means to the process, lanes. */
import { PsionicError } from "../core/error.ts";
import type { JsonSchema } from "./fields.ts";

export type { JsonSchema };

export const runtimeSurfaceId = "psionic-train.runtime.v1";

export const roles = ["worker", "validator", "recovery_source"] as const;
export type Role = (typeof roles)[number];

export const operations = [
  "start",
  "rehearse_base_lane",
  "record_checkpoint",
  "backup",
  "resume",
  "serve_checkpoint",
  "decide_continue_restart",
  "validate_contribution",
] as const;
export type Operation = (typeof operations)[number];

/** Which role an operation belongs to. */
export const roleOf: Readonly<Record<Operation, Role>> = {
  start: "worker",
  rehearse_base_lane: "worker",
  record_checkpoint: "worker",
  backup: "worker",
  resume: "recovery_source",
  serve_checkpoint: "recovery_source",
  decide_continue_restart: "recovery_source",
  validate_contribution: "validator",
};

/** Operations that begin a run: their root is `output_root`. */
export const isLaunch = (operation: Operation): boolean =>
  operation === "start" || operation === "rehearse_base_lane";

/** As contribution receipts name an operation. */
export const labelOf = (operation: Operation): string => operation.replaceAll("_", "-");

export const workClasses = [
  "validation_replay",
  "evaluation",
  "adapter_training",
  "small_model_local_training",
  "grouped_replica_stage_execution",
  "full_island_local_update_training",
  "aggregation",
  "checkpoint_promotion",
] as const;
export type WorkClass = (typeof workClasses)[number];

/** Work whose contributions a validator takes on. */
export const validatedClasses: ReadonlySet<WorkClass> = new Set([
  "adapter_training",
  "small_model_local_training",
  "grouped_replica_stage_execution",
  "full_island_local_update_training",
]);

export const outcomes = ["succeeded", "refused"] as const;
export type InvocationOutcome = (typeof outcomes)[number];
export const owners = ["pylon", "nexus"] as const;
export const dispositions = ["accepted", "quarantined", "rejected", "replay_required"] as const;
export const driftStates = ["baseline", "stable", "improved", "regressed"] as const;
export const rollbackPostures = ["hold", "candidate"] as const;
export const hooks = [
  "assignment_correctness",
  "checkpoint_lineage",
  "work_execution_plausibility",
  "update_integrity",
  "grouped_stage_integrity",
] as const;
/** The last one is added to the contract's: re-execution came to another result. */
export const reasonCodes = [
  "contribution_outcome_refused",
  "primary_checkpoint_accepted",
  "checkpoint_recovered",
  "checkpoint_replay_required",
  "grouped_stage_evidence_verified",
  "reexecution_mismatch",
] as const;
export const dirtyTreeAdmissions = [
  "packaged_clean_release",
  "refuse_by_default",
  "allowed_by_operator_override",
] as const;

type RefusalMeaning = {
  readonly exitCode: number;
  readonly retryable: boolean;
  readonly owner: (typeof owners)[number];
};
const final = (exitCode: number): RefusalMeaning => ({ exitCode, retryable: false, owner: "pylon" });
const again = (exitCode: number, owner: RefusalMeaning["owner"]): RefusalMeaning => ({
  ...{ exitCode, retryable: true, owner },
});

/** What a refusal tells the supervisor. */
export const refusals = {
  bad_config: final(10),
  stale_assignment: again(11, "nexus"),
  lease_expired: again(12, "nexus"),
  unsupported_topology: final(13),
  grouped_stage_assignment_invalid: final(14),
  checkpoint_missing: again(15, "pylon"),
  checkpoint_digest_mismatch: final(16),
  artifact_incomplete: again(17, "pylon"),
  artifact_digest_mismatch: final(18),
  validator_timeout: again(19, "nexus"),
  validator_disagreement: again(20, "nexus"),
  environment_mismatch: final(21),
  build_revoked: final(22),
  internal_error: final(70),
} as const satisfies Readonly<Record<string, RefusalMeaning>>;
export type RefusalClass = keyof typeof refusals;
export const refusalClasses = Object.keys(refusals) as [RefusalClass, ...RefusalClass[]];

/** Ends an operation with a class of the contract; becomes a packet in one place. */
export class Refusal extends PsionicError {
  readonly refusalClass: RefusalClass;

  constructor(refusalClass: RefusalClass, detail: string, cause?: unknown) {
    super("unsupported", detail, { refusal_class: refusalClass }, cause);
    this.name = "Refusal";
    this.refusalClass = refusalClass;
  }
}

export function refuse(refusalClass: RefusalClass, detail: string, cause?: unknown): never {
  throw new Refusal(refusalClass, detail, cause);
}

/** Constants of a lane; the machine is not probed for them. */
export type LaneContract = {
  readonly id: string;
  readonly releaseId: string;
  readonly environmentRef: string;
  readonly backend: string;
  readonly topology: string;
  readonly machineClass: string;
};

function lane(
  name: string,
  environment: string,
  backend: string,
  topology: string,
  machineClass: string,
): LaneContract {
  return {
    id: `${name}_v1`,
    releaseId: `psionic-train.${name}.release.v1`,
    environmentRef: `psionic.environment.${name}.${environment}.operator@v1`,
    ...{ backend, topology, machineClass },
  };
}

export const actualLane = lane(
  ...(["psion_actual_pretraining", "cuda_h100", "cuda"] as const),
  ...(["homogeneous_four_node_h100_tensor_parallel", "strong_cuda_trainer"] as const),
);
export const appleLane = lane(
  ...(["psion_apple_windowed_training", "metal_mlx", "metal"] as const),
  ...(["homogeneous_apple_silicon_data_parallel", "apple_silicon_operator"] as const),
);
export const demoLane = lane(
  ...(["psion_cs336_a1_demo", "host_cpu", "cpu"] as const),
  ...(["single_host_cpu_reference", "cross_platform_cpu_compatible_operator"] as const),
);
export const adapterLane = lane(
  ...(["qwen_legal_adapter_sft", "cuda", "cuda"] as const),
  ...(["single_host_cuda_adapter_smoke", "strong_cuda_trainer"] as const),
);

const lanes: readonly LaneContract[] = [actualLane, appleLane, demoLane, adapterLane];
export const laneIds: readonly string[] = lanes.map(({ id }) => id);

export function laneContract(id: string): LaneContract | undefined {
  return lanes.find((l) => l.id === id);
}
