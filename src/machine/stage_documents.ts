/** What passes between grouped stages, and what a stage and its replay leave behind. */
import { dispositions, outcomes, reasonCodes } from "./contract.ts";
import { type Content, document } from "./documents.ts";
import { digest, filled, listOf, oneOf, orNull, positive, str, u16 } from "./fields.ts";
import { stageAssignment } from "./manifest.ts";

const path = orNull(str);

export const stagePayload = document(
  "psionic.train.grouped_replica_stage_payload.v1",
  {
    lane_id: filled,
    run_id: filled,
    window_id: filled,
    assignment_id: filled,
    replica_id: filled,
    stage_id: filled,
    node_pubkey: filled,
    detail: str,
    payload_digest: str,
  },
  { field: "payload_digest", prefix: "psionic_train_grouped_stage_payload|" },
);
export type StagePayload = Content<typeof stagePayload>;

/** `payload_path` is relative to the folder of the envelope. */
export const stageTransport = document(
  "psionic.train.grouped_replica_stage_transport.v1",
  {
    lane_id: str,
    network_id: orNull(str),
    run_id: str,
    window_id: str,
    assignment_id: str,
    replica_id: str,
    from_stage_id: str,
    to_stage_id: str,
    handoff_kind: oneOf(["activation", "kv_cache", "tensor_collective"]),
    transport: oneOf([
      "wider_network_stream",
      "local_only",
      "loopback",
      "trusted_lan_datagram",
      "trusted_lan_stream",
      "mixed",
    ]),
    payload_path: str,
    payload_sha256: str,
    payload_bytes: positive,
    source_stage_assignment_digest: str,
    detail: str,
    transport_digest: str,
  },
  { field: "transport_digest", prefix: "psionic_train_grouped_stage_transport|" },
);
export type StageTransport = Content<typeof stageTransport>;

export const stageExecutionSummary = document(
  "psionic.train.grouped_replica_stage_execution_summary.v1",
  {
    lane_id: filled,
    network_id: orNull(str),
    run_id: filled,
    window_id: filled,
    assignment_id: filled,
    contribution_id: filled,
    node_pubkey: filled,
    grouped_stage_assignment: stageAssignment,
    outcome: oneOf(outcomes),
    input_transport_path: path,
    input_transport_digest: orNull(digest),
    input_payload_digest: orNull(digest),
    output_transport_path: path,
    output_transport_digest: orNull(digest),
    output_payload_path: path,
    output_payload_digest: orNull(digest),
    detail: str,
    execution_summary_digest: str,
  },
  { field: "execution_summary_digest", prefix: "psionic_train_grouped_stage_execution_summary|" },
);
export type StageExecutionSummary = Content<typeof stageExecutionSummary>;

export const stageReplayEvidence = document(
  "psionic.train.grouped_replica_stage_replay_evidence.v1",
  {
    lane_id: str,
    network_id: orNull(str),
    validator_run_id: str,
    challenged_run_id: str,
    window_id: str,
    assignment_id: str,
    challenge_id: str,
    validator_node_pubkey: str,
    challenged_node_pubkey: str,
    contribution_id: str,
    contribution_digest: str,
    artifact_manifest_digest: str,
    grouped_stage_assignment: stageAssignment,
    execution_summary_path: str,
    execution_summary_digest: str,
    input_transport_digest: orNull(str),
    output_transport_digest: orNull(str),
    disposition: oneOf(dispositions),
    reason_codes: listOf(oneOf(reasonCodes)),
    score_bps: u16,
    detail: str,
    replay_evidence_digest: str,
  },
  { field: "replay_evidence_digest", prefix: "psionic_train_grouped_stage_replay_evidence|" },
);
