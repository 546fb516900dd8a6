/**
 * Documents of a succeeded contribution that no step stands on: each is what its kind says, its own digest holds, and it is of
 * the lane, run, node and operation that the receipt names. What disagrees is `artifact_digest_mismatch`.
 */
import { autoResumeReceipt, backupReceipt, handoffReceipt, recoveryReceipt } from "./checkpoint.ts";
import { actualLane, demoLane, labelOf, refuse } from "./contract.ts";
import { record, str } from "./fields.ts";
import type { InvocationManifest } from "./manifest.ts";
import { membershipReceipt, sessionId, timingPolicy } from "./membership.ts";
import { replayed, schemaIn } from "./replay_inputs.ts";
import type { Target } from "./replay_target.ts";

/** `asked`: the worker's own manifest. */
export function checkPapers(target: Target, asked: InvocationManifest): void {
  checkMembership(target, asked);
  checkReceipts(target);
  checkLaneFiles(target);
}

type Values = Readonly<Record<string, unknown>>;

function agree(kind: string, found: object, expected: Values): void {
  const fields = found as Values;
  const wrong = Object.entries(expected).find(([field, value]) => fields[field] !== value);
  if (wrong) refuse("artifact_digest_mismatch", `the contribution's ${kind} drifted: ${wrong[0]}`);
}

function checkMembership({ receipt, files }: Target, asked: InvocationManifest): void {
  const file = files.get("membership_revision");
  if (!file) return;
  const found = replayed(membershipReceipt, file);
  const { lane_id, role, run_id, node_pubkey, operation } = receipt;
  const {
    last_heartbeat_at_ms: heartbeat,
    session_started_at_ms: started,
    lease_started_at_ms: lease,
  } = found;
  agree("membership_revision", found, {
    ...{ lane_id, role, run_id, node_pubkey, ...asked.admission_identity },
    session_id: sessionId(run_id, node_pubkey, started),
    next_required_heartbeat_at_ms: heartbeat + timingPolicy.heartbeat_interval_ms,
    stale_after_ms: heartbeat + timingPolicy.heartbeat_stale_after_ms,
    expires_at_ms: heartbeat + timingPolicy.heartbeat_expiry_ms,
    lease_expires_at_ms: lease + timingPolicy.lease_duration_ms,
  });
  agree("membership_revision", { operation: labelOf(found.operation) }, { operation });
  if (found.worker_state === "failed")
    refuse("artifact_digest_mismatch", "the contribution's membership_revision is of a refusal");
}

/** Receipts whose contents are held against the checkpoint elsewhere. */
function checkReceipts({ receipt, files }: Target): void {
  const { lane_id } = receipt;
  const backup = files.get("checkpoint_backup_receipt");
  if (backup) agree("checkpoint_backup_receipt", replayed(backupReceipt, backup), { lane_id });
  const handoff = files.get("checkpoint_handoff_receipt");
  if (handoff) agree("checkpoint_handoff_receipt", replayed(handoffReceipt, handoff), { lane_id });
  const file = files.get("recovery_receipt");
  if (!file) return;
  const stage = schemaIn(file) === recoveryReceipt.id;
  const found = stage ? replayed(recoveryReceipt, file) : replayed(autoResumeReceipt, file);
  agree("recovery_receipt", found, { lane_id });
}

/** Files of lanes that keep any; in the run root of another lane they are left from before. */
const keepers: readonly string[] = [actualLane.id, demoLane.id];
const laneFile = { schema: record({ lane_id: str, run_id: str }), digest: undefined };

function checkLaneFiles({ receipt, files }: Target): void {
  const { lane_id, run_id } = receipt;
  if (!keepers.includes(lane_id) || receipt.grouped_stage_assignment !== null) return;
  for (const kind of ["launch_manifest", "current_status", "retained_summary", "final_closeout_bundle"]) {
    const file = files.get(kind);
    if (file) agree(kind, replayed(laneFile, file), { lane_id, run_id });
  }
}
