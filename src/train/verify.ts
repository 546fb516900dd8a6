/** Whether a run did what a run does: its steps, a lower loss, a whole checkpoint of its last step, a closeout. */
import { documentIf, measuredIn } from "./evidence.ts";
import { lookAtPointer } from "./resume.ts";
import { type Phase, type Run, retainedPaths } from "./run_root.ts";

export type Check = { readonly id: string; readonly passed: boolean; readonly detail: string };

/** Phases of runs that reached their end. */
const ended: readonly Phase[] = [
  "training_complete",
  "checkpoint_evaluated",
  "checkpoint_backed_up",
  "continue_decision_recorded",
  "base_lane_rehearsal_complete",
];

/** Only reads; the checkpoint's files are hashed. */
export function verifyRun(run: Run): Check[] {
  const status = documentIf(run.root, retainedPaths.current_status_path);
  const summary = documentIf(run.root, retainedPaths.retained_summary_path);
  const closeout = documentIf(run.root, retainedPaths.closeout_bundle_path);
  const { steps } = measuredIn(run.root);
  const [first, last] = [steps[0], steps.at(-1)];
  const looked = lookAtPointer(run);
  const step = looked.state === "accepted" ? (looked.accepted?.step ?? 0) : 0;
  const phase = String(status?.phase ?? "none");
  const bundled = Array.isArray(closeout?.evidence_artifacts) ? closeout.evidence_artifacts.length : 0;
  const check = (id: string, passed: boolean, detail: string): Check => ({ id, passed, detail });
  return [
    check(
      "phase",
      ended.some((p) => p === phase),
      phase,
    ),
    check(
      "final_loss_below_initial",
      first !== undefined && last !== undefined && last !== first && last.loss < first.loss,
      first && last ? `${first.loss.toFixed(4)} to ${last.loss.toFixed(4)}` : "no step",
    ),
    check("status_documents", status !== undefined && summary !== undefined, "Current status, summary."),
    check(
      "checkpoint_accepted",
      step > 0 && step === last?.step,
      looked.state === "accepted" ? `Step ${step}.` : looked.reason,
    ),
    check("closeout", closeout?.closeout_state === phase && bundled > 0, `${bundled} pieces of evidence.`),
  ];
}
