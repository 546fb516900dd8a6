/** The closeout bundle: which evidence a run root holds, by digest, and which of the gates it satisfies. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { documentIf, memberOf, receiptsOf, referenceTo } from "./evidence.ts";
import { ownPaths, type Phase, type Run, retainedPaths, schemaId, write } from "./run_root.ts";

export type CloseoutGate = { readonly gate_id: string; readonly satisfied: boolean; readonly detail: string };

const drills = ["failed_upload", "corrupt_pointer", "stale_pointer"] as const;

/** Evidence by kind, in the order in which the bundle lists it. */
function evidencePaths(step: number): readonly (readonly [kind: string, path: string])[] {
  const p = retainedPaths;
  return [
    ["launch_manifest", p.launch_manifest_path],
    ["hardware_qualification", p.hardware_qualification_path],
    ["run_shape_qualification", p.run_shape_qualification_path],
    ["checkpoint_pointer", p.latest_checkpoint_pointer_path],
    ["checkpoint_manifest", `checkpoints/step-${step}/checkpoint_manifest.json`],
    ["checkpoint_backup_receipt", p.latest_checkpoint_backup_receipt_path],
    ["checkpoint_eval_decision", p.latest_checkpoint_eval_decision_path],
    ["checkpoint_eval_failure", p.latest_checkpoint_eval_failure_path],
    ["checkpoint_comparison", p.latest_checkpoint_comparison_path],
    ["continue_restart_decision", p.latest_continue_restart_decision_path],
    ["auto_resume_receipt", p.auto_resume_receipt_path],
    ["resume_manifest", p.resume_manifest_path],
    ["retained_summary", p.retained_summary_path],
    ["current_status", p.current_status_path],
    ["dashboard_packet", p.current_dashboard_path],
    ["active_alert_feed", p.active_alert_feed_path],
    ["continuation_handoff", p.continuation_handoff_path],
    ["recovery_drill", ownPaths.recovery],
  ];
}

/** What the run root proves of the run's life cycle. */
export function closeoutGates(run: Run): CloseoutGate[] {
  const pointer = documentIf(run.root, retainedPaths.latest_checkpoint_pointer_path);
  const step = Number(pointer?.optimizer_step ?? 0);
  const launch = documentIf(run.root, retainedPaths.launch_manifest_path);
  const { backup, evalDecision, decision } = receiptsOf(run, step);
  const admitted = ["preflight_receipt", "run_shape_receipt"].every(
    (name) => memberOf(launch, name).admission_state === "admitted",
  );
  const holds = (path: string): boolean => existsSync(join(run.root, path));
  const gates: readonly (readonly [string, boolean, string])[] = [
    ["launch_preflight_admitted", admitted, "Both receipts that the launch manifest names."],
    ["accepted_checkpoint_retained", pointer?.pointer_state === "accepted", `Step ${step}.`],
    ["automatic_checkpoint_eval_retained", evalDecision !== undefined, "Of the accepted checkpoint."],
    [
      "checkpoint_backup_success_retained",
      backup?.backup_state === "backed_up",
      "Of the accepted checkpoint.",
    ],
    ["continue_decision_retained", decision?.decision_state === "continue", "Of the accepted checkpoint."],
    ["resume_manifest_retained", holds(retainedPaths.resume_manifest_path), "Written by resume."],
    [
      "failure_drill_retained",
      drills.some((kind) => holds(`checkpoints/failures/${kind}_drill.json`)),
      "At least one of the drills.",
    ],
  ];
  return gates.map(([gate_id, satisfied, detail]) => ({ gate_id, satisfied, detail }));
}

export function writeCloseout(run: Run, phase: Phase): readonly CloseoutGate[] {
  const pointer = documentIf(run.root, retainedPaths.latest_checkpoint_pointer_path);
  const step = Number(pointer?.optimizer_step ?? 0);
  const gates = closeoutGates(run);
  const complete = phase === "base_lane_rehearsal_complete";
  write(run, retainedPaths.closeout_bundle_path, {
    schema_version: schemaId("closeout_bundle"),
    lane_id: run.lane.id,
    run_id: run.runId,
    closeout_state: phase,
    retained_paths: retainedPaths,
    ...run.git,
    evidence_artifacts: evidencePaths(step).flatMap(([artifact_kind, path]) => {
      const artifact = referenceTo(run.root, path);
      return artifact ? [{ artifact_kind, artifact, detail: "As it is now." }] : [];
    }),
    closeout_gates: gates,
    failure_drills: drills.flatMap((kind) => {
      const path = `checkpoints/failures/${kind}_drill.json`;
      const artifact = referenceTo(run.root, path);
      const drill = documentIf(run.root, path);
      if (!artifact || !drill) return [];
      const { drill_id, outcome, detail } = drill;
      return [{ drill_id, resolution_state: outcome, artifact, detail }];
    }),
    can_now_claim: complete
      ? ["A run of this lane was killed, resumed, and ended with the bits of a run that was not."]
      : gates.filter((g) => g.satisfied).map((g) => g.gate_id),
    still_out_of_scope: [run.lane.claimBoundary],
    claim_boundary: run.lane.claimBoundary,
    detail: "Made from the files of the run root.",
  });
  return gates;
}
