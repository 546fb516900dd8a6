/** What a manifest must hold together; the order of the checks is part of the contract, the first failure wins. */
import {
  laneContract,
  laneIds,
  type Operation,
  refuse,
  roleOf,
  runtimeSurfaceId,
  validatedClasses,
} from "./contract.ts";
import { isBlank } from "./fields.ts";
import { type Binding, type InvocationManifest, manifestDigest } from "./manifest.ts";
import { checkFolderName, checkRootPath } from "./names.ts";
import { checkStage } from "./stage.ts";

type Check = (m: InvocationManifest) => void;

const checks: readonly Check[] = [
  identity,
  declaredDigest,
  roleAndClass,
  coordinationStrings,
  stageAssignment,
  admission,
  shapes,
  operationOfRole,
  neededFields,
  peerFields,
  replayFields,
];

/** Throws a `Refusal` at the first rule that does not hold. */
export function checkManifest(manifest: InvocationManifest): void {
  for (const check of checks) check(manifest);
}

function demand(holds: boolean, detail: string): void {
  if (!holds) refuse("bad_config", detail);
}

function filledText(value: string | null | undefined, name: string): void {
  demand(value !== null && value !== undefined && !isBlank(value), `${name} must be given and not blank`);
}

function identity(m: InvocationManifest): void {
  demand(
    m.runtime_surface_id === runtimeSurfaceId,
    `runtime_surface_id must be ${runtimeSurfaceId}, got ${shown(m.runtime_surface_id)}`,
  );
  filledText(m.lane_id, "lane_id");
  if (!laneContract(m.lane_id)) {
    refuse("unsupported_topology", `lane ${shown(m.lane_id)} is not admitted; lanes: ${laneIds.join(", ")}`);
  }
}

function declaredDigest(m: InvocationManifest): void {
  if (m.manifest_digest === null) return;
  const computed = manifestDigest(m);
  if (m.manifest_digest === computed) return;
  refuse(
    "artifact_digest_mismatch",
    `manifest_digest is ${shown(m.manifest_digest)}, the manifest's own is ${computed}`,
  );
}

function roleAndClass(m: InvocationManifest): void {
  demand(
    (m.role === "validator") === (m.work_class === "validation_replay"),
    `role ${m.role} does not do ${m.work_class}: validation_replay belongs to validators alone`,
  );
}

function coordinationStrings(m: InvocationManifest): void {
  for (const [key, value] of Object.entries(m.coordination)) {
    if (typeof value === "string") filledText(value, `coordination.${key}`);
  }
  if (m.coordination.window_id !== null) checkFolderName(m.coordination.window_id, "coordination.window_id");
}

function stageAssignment(m: InvocationManifest): void {
  const stage = m.grouped_stage_assignment;
  const grouped = m.work_class === "grouped_replica_stage_execution";
  if (stage === null) {
    demand(
      m.grouped_stage_input_transport === null,
      "grouped_stage_input_transport belongs to a grouped_stage_assignment",
    );
    if (grouped && m.role !== "validator")
      refuse("grouped_stage_assignment_invalid", `${m.work_class} needs a grouped_stage_assignment`);
    return;
  }
  checkStage(stage);
  filledText(m.coordination.window_id, "coordination.window_id of a grouped stage");
  filledText(m.coordination.assignment_id, "coordination.assignment_id of a grouped stage");
  const mayHold = m.role === "worker" || (m.role === "recovery_source" && m.operation === "resume");
  if (!mayHold) {
    refuse(
      "grouped_stage_assignment_invalid",
      `${m.operation} of a ${m.role} takes no grouped_stage_assignment`,
    );
  }
  demand(grouped, `a grouped_stage_assignment needs grouped_replica_stage_execution, got ${m.work_class}`);
  const input = m.grouped_stage_input_transport;
  const needed = m.role === "worker" && stage.upstream_stage_id !== null;
  demand(
    (input !== null) === needed,
    needed
      ? `stage ${shown(stage.stage_id)} needs the grouped_stage_input_transport of ${shown(stage.upstream_stage_id)}`
      : "this stage takes no grouped_stage_input_transport",
  );
  if (input !== null) filledText(input.materialized_path, "grouped_stage_input_transport.materialized_path");
}

function admission(m: InvocationManifest): void {
  for (const [key, value] of Object.entries(m.admission_identity))
    filledText(value, `admission_identity.${key}`);
  filledText(m.coordination.node_pubkey, "coordination.node_pubkey");
}

/** Fields that hold bindings. */
const bindingFields = [
  "peer_checkpoint_handoff_receipt",
  "validator_target_contribution_receipt",
  "validator_target_contribution_artifact_manifest",
  "grouped_stage_input_transport",
] as const;

function shapes(m: InvocationManifest): void {
  if (m.peer_node_pubkey !== null) filledText(m.peer_node_pubkey, "peer_node_pubkey");
  for (const field of bindingFields) {
    const found = m[field];
    if (found !== null) checkBinding(found, field);
  }
  filledText(m.selected_git_ref, "selected_git_ref");
}

export function checkBinding({ artifact_ref, materialized_path }: Binding, name: string): void {
  filledText(artifact_ref.artifact_id, `${name}.artifact_ref.artifact_id`);
  if (artifact_ref.artifact_digest !== undefined)
    filledText(artifact_ref.artifact_digest, `${name}.artifact_ref.artifact_digest`);
  demand(
    artifact_ref.artifact_bytes === undefined || BigInt(artifact_ref.artifact_bytes) > 0n,
    `${name}.artifact_ref.artifact_bytes must not be 0`,
  );
  if (materialized_path !== undefined) filledText(materialized_path, `${name}.materialized_path`);
}

function operationOfRole(m: InvocationManifest): void {
  demand(
    roleOf[m.operation] === m.role,
    `operation ${m.operation} belongs to ${roleOf[m.operation]}, got ${m.role}`,
  );
}

type TextField = "run_id" | "output_root" | "run_root" | "checkpoint_label" | "checkpoint_ref";

const launch: readonly TextField[] = ["run_id", "output_root"];
const needs: Readonly<Record<Operation, readonly TextField[]>> = {
  start: launch,
  rehearse_base_lane: launch,
  record_checkpoint: ["run_root", "checkpoint_label", "checkpoint_ref"],
  backup: ["run_root"],
  resume: ["run_root"],
  serve_checkpoint: ["run_root"],
  decide_continue_restart: ["run_root"],
  validate_contribution: ["run_root"],
};

function neededFields(m: InvocationManifest): void {
  const fields = needs[m.operation];
  for (const field of fields) filledText(m[field], `${field} of ${m.operation}`);
  if (!fields.includes("run_root")) demand(m.run_root === null, `run_root is not for ${m.operation}`);
  if (m.operation === "record_checkpoint")
    demand(m.optimizer_step !== null, "optimizer_step of record_checkpoint must be given");
  for (const field of ["output_root", "run_root"] as const) {
    const root = m[field];
    if (root !== null) checkRootPath(root, field);
  }
}

function peerFields(m: InvocationManifest): void {
  const serves = m.operation === "serve_checkpoint";
  demand(
    (m.peer_node_pubkey !== null) === serves,
    serves
      ? "peer_node_pubkey of serve_checkpoint must be given"
      : `peer_node_pubkey is not for ${m.operation}`,
  );
  demand(
    m.peer_checkpoint_handoff_receipt === null || m.operation === "resume",
    `peer_checkpoint_handoff_receipt is not for ${m.operation}`,
  );
}

function replayFields(m: InvocationManifest): void {
  const targets = [
    "validator_target_contribution_receipt",
    "validator_target_contribution_artifact_manifest",
    "validator_target_work_class",
  ] as const;
  if (m.operation !== "validate_contribution") {
    for (const field of targets) demand(m[field] === null, `${field} is not for ${m.operation}`);
    return;
  }
  for (const key of ["window_id", "assignment_id", "challenge_id"] as const)
    filledText(m.coordination[key], `coordination.${key} of validate_contribution`);
  for (const field of targets) demand(m[field] !== null, `${field} of validate_contribution must be given`);
  const target = m.validator_target_work_class;
  demand(target !== null && validatedClasses.has(target), `work of class ${target} is not validated`);
}

/** Text of strangers in a message: short and quoted. */
function shown(text: string | null): string {
  return text === null ? "nothing" : JSON.stringify(text.slice(0, 120));
}
