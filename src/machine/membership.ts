/** Membership of a node in a run, derived from the receipts that successive invocations leave behind. */
import { sha256 } from "../core/digest.ts";
import { type Operation, operations, type Role, roles, runtimeSurfaceId } from "./contract.ts";
import { type Content, document, sealed } from "./documents.ts";
import { count, exactly, maybe, oneOf, record, str, u64 } from "./fields.ts";
import type { Attestation, Capability } from "./identity.ts";
import type { InvocationManifest } from "./manifest.ts";

const transitions = ["join", "heartbeat", "rejoin", "drain", "replace", "fail"] as const;
const workerStates = ["active", "draining", "failed", "replaced"] as const;
const livenessStates = ["fresh", "stale", "expired"] as const;
type Transition = (typeof transitions)[number];
type WorkerState = (typeof workerStates)[number];

export const timingPolicy = {
  heartbeat_interval_ms: 5000,
  heartbeat_stale_after_ms: 15000,
  heartbeat_expiry_ms: 30000,
  lease_duration_ms: 60000,
  lease_renewal_threshold_ms: 15000,
  drain_grace_ms: 15000,
} as const;

export const membershipReceipt = document(
  "psionic.train.membership_revision_receipt.v1",
  {
    runtime_surface_id: exactly(runtimeSurfaceId),
    lane_id: str,
    role: oneOf(roles),
    operation: oneOf(operations),
    run_id: str,
    node_pubkey: str,
    session_id: str,
    local_membership_revision: count,
    coordinator_membership_revision: maybe(u64),
    previous_local_membership_revision: maybe(count),
    transition: oneOf(transitions),
    worker_state: oneOf(workerStates),
    previous_worker_state: maybe(oneOf(workerStates)),
    previous_liveness_state: maybe(oneOf(livenessStates)),
    replaced_node_pubkey: maybe(str),
    release_id: str,
    build_digest: str,
    environment_ref: str,
    backend_family: str,
    topology_class: str,
    timing_policy: record({
      heartbeat_interval_ms: count,
      heartbeat_stale_after_ms: count,
      heartbeat_expiry_ms: count,
      lease_duration_ms: count,
      lease_renewal_threshold_ms: count,
      drain_grace_ms: count,
    }),
    session_started_at_ms: count,
    observed_at_ms: count,
    last_heartbeat_at_ms: count,
    next_required_heartbeat_at_ms: count,
    stale_after_ms: count,
    expires_at_ms: count,
    lease_started_at_ms: count,
    lease_renewal_required_at_ms: count,
    lease_expires_at_ms: count,
    drain_deadline_at_ms: maybe(count),
    receipt_digest: str,
  },
  { field: "receipt_digest", prefix: "" },
);
export type MembershipReceipt = Content<typeof membershipReceipt>;

export type MembershipInput = {
  readonly manifest: InvocationManifest;
  readonly runId: string;
  readonly refused: boolean;
  readonly attestation: Attestation;
  readonly capability: Capability;
  /** Milliseconds since 1970. */
  readonly now: number;
};

export function sessionId(runId: string, node: string, startedAtMs: number): string {
  return sha256(`psionic_train_membership_session|${runId}|${node}|${startedAtMs}`);
}

/** How fresh a node is that was last heard of at `heartbeat`. */
export function livenessAt(heartbeat: number, now: number): (typeof livenessStates)[number] {
  const elapsed = now - heartbeat;
  if (elapsed >= timingPolicy.heartbeat_expiry_ms) return "expired";
  return elapsed >= timingPolicy.heartbeat_stale_after_ms ? "stale" : "fresh";
}

function stateAfter(role: Role, operation: Operation, refused: boolean): WorkerState {
  if (refused) return "failed";
  const drains =
    operation === "backup" || operation === "decide_continue_restart" || role === "recovery_source";
  return drains ? "draining" : "active";
}

/** The receipt of this invocation; undefined for a refusal that nothing came before. */
export function nextMembership(
  previous: MembershipReceipt | undefined,
  input: MembershipInput,
): MembershipReceipt | undefined {
  const { manifest, runId, refused, attestation, capability, now } = input;
  if (refused && !previous) return undefined;
  const node = manifest.coordination.node_pubkey ?? "";
  const state = stateAfter(manifest.role, manifest.operation, refused);
  const liveness = previous && livenessAt(previous.last_heartbeat_at_ms, now);
  const transition = transitionOf(previous, liveness, { refused, node, state });
  const begins = transition === "join" || transition === "rejoin" || transition === "replace";
  const started = begins || !previous ? now : previous.session_started_at_ms;
  const heartbeat = transition === "fail" && previous ? previous.last_heartbeat_at_ms : now;
  const lease = begins || !previous ? now : previous.lease_started_at_ms;
  const former =
    transition === "replace" ? (liveness === "expired" ? "failed" : "replaced") : previous?.worker_state;
  return sealed(membershipReceipt, {
    runtime_surface_id: runtimeSurfaceId,
    lane_id: manifest.lane_id,
    role: manifest.role,
    operation: manifest.operation,
    run_id: runId,
    node_pubkey: node,
    session_id: sessionId(runId, node, started),
    local_membership_revision: (previous?.local_membership_revision ?? 0) + 1,
    coordinator_membership_revision: manifest.coordination.membership_revision ?? undefined,
    previous_local_membership_revision: previous?.local_membership_revision,
    transition,
    worker_state: state,
    previous_worker_state: former,
    previous_liveness_state: liveness,
    replaced_node_pubkey: previous && previous.node_pubkey !== node ? previous.node_pubkey : undefined,
    release_id: attestation.release_id,
    build_digest: attestation.build_digest,
    environment_ref: attestation.environment_ref,
    backend_family: capability.backend_family,
    topology_class: capability.topology_class,
    timing_policy: timingPolicy,
    session_started_at_ms: started,
    observed_at_ms: now,
    last_heartbeat_at_ms: heartbeat,
    next_required_heartbeat_at_ms: heartbeat + timingPolicy.heartbeat_interval_ms,
    stale_after_ms: heartbeat + timingPolicy.heartbeat_stale_after_ms,
    expires_at_ms: heartbeat + timingPolicy.heartbeat_expiry_ms,
    lease_started_at_ms: lease,
    lease_renewal_required_at_ms:
      lease + timingPolicy.lease_duration_ms - timingPolicy.lease_renewal_threshold_ms,
    lease_expires_at_ms: lease + timingPolicy.lease_duration_ms,
    drain_deadline_at_ms: state === "draining" ? now + timingPolicy.drain_grace_ms : undefined,
  });
}

/** First match wins. */
function transitionOf(
  previous: MembershipReceipt | undefined,
  liveness: (typeof livenessStates)[number] | undefined,
  current: { readonly refused: boolean; readonly node: string; readonly state: WorkerState },
): Transition {
  if (!previous) return "join";
  if (current.refused) return "fail";
  if (current.node !== previous.node_pubkey) return "replace";
  if (liveness === "expired" || previous.worker_state === "failed") return "rejoin";
  return current.state === "draining" && previous.worker_state !== "draining" ? "drain" : "heartbeat";
}
