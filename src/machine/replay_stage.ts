/** What a grouped stage's contribution must have besides: one stage everywhere, a summary, and transports that verify. */
import { sha256 } from "../core/digest.ts";
import { orderedJson } from "../core/json.ts";
import { refuse } from "./contract.ts";
import type { StageAssignment } from "./manifest.ts";
import { type Found, replayed } from "./replay_inputs.ts";
import type { Target } from "./replay_target.ts";
import { checkStage } from "./stage.ts";
import {
  type StageExecutionSummary,
  stageExecutionSummary,
  stagePayload,
  stageTransport,
} from "./stage_documents.ts";

export type StageEvidence = {
  readonly stage: StageAssignment;
  readonly summary: StageExecutionSummary;
  /** Of the summary, as the artifact manifest has it. */
  readonly summaryPath: string;
};

function drift(detail: string): never {
  return refuse("artifact_digest_mismatch", detail);
}

/** Step 9 for grouped work. Throws a `Refusal`: `artifact_incomplete` for what is not there, else `artifact_digest_mismatch`. */
export function checkStageEvidence({ receipt, listed, files }: Target): StageEvidence {
  const stage = receipt.grouped_stage_assignment;
  if (stage === null || listed.grouped_stage_assignment === null)
    return refuse("artifact_incomplete", "a contribution of grouped work without a stage");
  const same = (other: StageAssignment): boolean => orderedJson(other) === orderedJson(stage);
  if (!same(listed.grouped_stage_assignment)) drift("receipt and artifact manifest are of two stages");
  try {
    checkStage(stage);
  } catch (cause) {
    drift(cause instanceof Error ? cause.message : String(cause));
  }
  const file = files.get("grouped_stage_execution_summary");
  if (!file) return refuse("artifact_incomplete", "grouped work without grouped_stage_execution_summary");
  const summary = replayed(stageExecutionSummary, file);
  for (const field of ["lane_id", "run_id", "window_id", "assignment_id", "contribution_id"] as const) {
    if (summary[field] !== receipt[field]) drift(`the execution summary's ${field} drifted`);
  }
  if (summary.node_pubkey !== receipt.node_pubkey || summary.outcome !== receipt.outcome)
    drift("the execution summary is of another node or outcome");
  if (!same(summary.grouped_stage_assignment)) drift("the execution summary is of another stage");
  checkPaths(listed, summary);
  checkTransports(files, stage, summary);
  return { stage, summary, summaryPath: pathOf(listed, "grouped_stage_execution_summary") ?? "" };
}

const pathOf = ({ artifacts }: Target["listed"], kind: string): string | undefined =>
  artifacts.find(({ artifact_kind }) => artifact_kind === kind)?.binding.materialized_path;

/** Paths are below the contributor's run root in both, so that a move changes nothing. */
function checkPaths(listed: Target["listed"], summary: StageExecutionSummary): void {
  const named = {
    grouped_stage_input_transport: summary.input_transport_path,
    grouped_stage_output_transport: summary.output_transport_path,
    grouped_stage_output_payload: summary.output_payload_path,
  };
  for (const [kind, path] of Object.entries(named)) {
    if ((pathOf(listed, kind) ?? null) !== path) drift(`${kind} lies elsewhere than the summary says`);
  }
}

function checkTransports(
  files: Target["files"],
  stage: StageAssignment,
  summary: StageExecutionSummary,
): void {
  const input = files.get("grouped_stage_input_transport");
  const output = files.get("grouped_stage_output_transport");
  const payload = files.get("grouped_stage_output_payload");
  if ((output === undefined) !== (payload === undefined)) drift("an output transport without its payload");
  if ((output === undefined) !== (stage.downstream_stage_id === null))
    drift("output goes exactly where there is a downstream");
  if (input) {
    const envelope = checkedEnvelope(input, summary);
    if (envelope.to_stage_id !== stage.stage_id || envelope.from_stage_id !== stage.upstream_stage_id)
      drift("the input transport is of other stages");
    if (envelope.transport_digest !== summary.input_transport_digest) drift("the input transport drifted");
  }
  if (output && payload) checkOutput(output, payload, stage, summary);
}

function checkedEnvelope(file: Found, summary: StageExecutionSummary) {
  const envelope = replayed(stageTransport, file);
  for (const field of ["lane_id", "network_id", "run_id", "window_id", "assignment_id"] as const) {
    if (envelope[field] !== summary[field]) drift(`a transport's ${field} drifted`);
  }
  return envelope;
}

function checkOutput(
  output: Found,
  payload: Found,
  stage: StageAssignment,
  summary: StageExecutionSummary,
): void {
  const envelope = checkedEnvelope(output, summary);
  const content = replayed(stagePayload, payload);
  const bytes = payload.bytes ?? new Uint8Array();
  if (sha256(bytes) !== envelope.payload_sha256 || BigInt(bytes.length) !== BigInt(envelope.payload_bytes))
    drift("the output payload is not the one that its envelope names");
  const ends =
    envelope.from_stage_id === stage.stage_id &&
    envelope.to_stage_id === stage.downstream_stage_id &&
    envelope.source_stage_assignment_digest === stage.assignment_digest;
  if (!ends || content.stage_id !== stage.stage_id || content.replica_id !== stage.replica_id)
    drift("the output is of other stages");
  if (envelope.transport_digest !== summary.output_transport_digest) drift("the output transport drifted");
  if (content.payload_digest !== summary.output_payload_digest) drift("the output payload drifted");
}
