/** What a grouped stage's contribution must have besides: one stage everywhere, a summary, and transports that verify. */
import { sha256 } from "../core/digest.ts";
import { orderedJson } from "../core/json.ts";
import { refuse } from "./contract.ts";
import type { StageAssignment } from "./manifest.ts";
import { boundBytes, replayed } from "./replay_inputs.ts";
import type { Target } from "./replay_target.ts";
import { checkStage } from "./stage.ts";
import {
  type StageExecutionSummary,
  type StagePayload,
  type StageTransport,
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
export function checkStageEvidence(target: Target): StageEvidence {
  const { receipt, listed, files } = target;
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
  checkTransports(files, stage, summary, target.evidence !== undefined || receipt.role !== "recovery_source");
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

/** `worked`: a stage that only recovered, without any work, was given no input. */
function checkTransports(
  files: Target["files"],
  stage: StageAssignment,
  summary: StageExecutionSummary,
  worked: boolean,
): void {
  const { upstream_stage_id: upstream, downstream_stage_id: downstream } = stage;
  const input = transportOf(files, "input");
  const output = transportOf(files, "output");
  if ((output === undefined) !== (downstream === null))
    drift("output goes exactly where there is a downstream");
  if ((input === undefined) !== (upstream === null) && (worked || input !== undefined))
    drift("input comes exactly where there is an upstream");
  const told = { transport: summary.input_transport_digest, payload: summary.input_payload_digest };
  checkTransport("input", input, { from: upstream, to: stage.stage_id, ...told }, stage, summary);
  const made = { transport: summary.output_transport_digest, payload: summary.output_payload_digest };
  checkTransport("output", output, { from: stage.stage_id, to: downstream, ...made }, stage, summary);
  if (output && output.envelope.source_stage_assignment_digest !== stage.assignment_digest)
    drift("the output is of another stage assignment");
}

type Way = "input" | "output";
type Transport = {
  readonly envelope: StageTransport;
  readonly payload: StagePayload;
  readonly bytes: Uint8Array;
};

/** Envelope and payload, both or neither. */
function transportOf(files: Target["files"], way: Way): Transport | undefined {
  const envelope = files.get(`grouped_stage_${way}_transport`);
  const payload = files.get(`grouped_stage_${way}_payload`);
  if (!envelope && !payload) return undefined;
  if (!envelope || !payload) return drift(`of the ${way}'s transport and payload only one is there`);
  return {
    envelope: replayed(stageTransport, envelope),
    payload: replayed(stagePayload, payload),
    bytes: boundBytes(payload),
  };
}

type Expected = {
  readonly from: string | null;
  readonly to: string | null;
  /** Digests that the summary has; null where it says that nothing passed. */
  readonly transport: string | null;
  readonly payload: string | null;
};

function checkTransport(
  way: Way,
  found: Transport | undefined,
  expected: Expected,
  stage: StageAssignment,
  summary: StageExecutionSummary,
): void {
  if ((found?.envelope.transport_digest ?? null) !== expected.transport)
    drift(`the ${way} transport drifted`);
  if ((found?.payload.payload_digest ?? null) !== expected.payload) drift(`the ${way} payload drifted`);
  if (!found) return;
  const { envelope, payload, bytes } = found;
  for (const field of ["lane_id", "network_id", "run_id", "window_id", "assignment_id"] as const) {
    if (envelope[field] !== summary[field]) drift(`the ${way} transport's ${field} drifted`);
    if (field !== "network_id" && payload[field] !== summary[field])
      drift(`the ${way} payload's ${field} drifted`);
  }
  if (sha256(bytes) !== envelope.payload_sha256 || BigInt(bytes.length) !== BigInt(envelope.payload_bytes))
    drift(`the ${way} payload is not the one that its envelope names`);
  const ends =
    envelope.from_stage_id === expected.from &&
    envelope.to_stage_id === expected.to &&
    payload.stage_id === expected.from &&
    [envelope, payload].every(({ replica_id }) => replica_id === stage.replica_id);
  if (!ends) drift(`the ${way} is of other stages`);
}
