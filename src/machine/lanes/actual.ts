/** `psion_actual_pretraining_v1`: windows of real steps, checkpoints of its own family, backups and recovery. */
import { refuse } from "../contract.ts";
import { sealed } from "../documents.ts";
import { closeoutPath, objectPathOf, statusPath } from "../layout.ts";
import type { Invocation } from "../surfaces.ts";
import { closeoutBundle, continueRestartDecision, type decisionStates } from "./actual_documents.ts";
import { evaluate, evaluationOf, windowLosses } from "./actual_eval.ts";
import {
  acceptActual,
  headOf,
  type Phase,
  pendingLabel,
  writeLaunch,
  writePendingPointer,
  writeStatus,
} from "./actual_files.ts";
import {
  type Accepted,
  copyHolds,
  lookAtPrimary,
  recoverActual,
  refuseBackup,
  tryBackup,
} from "./actual_recovery.ts";
import { recordedObject, recordedProfile } from "./record_object.ts";
import { trainWindow } from "./train_window.ts";
import { lanePlan, planned, told } from "./windowed.ts";

/** Does the operation and says in a sentence what was done. */
export function performActual(invocation: Invocation): string {
  const { manifest, lane } = invocation;
  switch (manifest.operation) {
    case "start":
      return start(invocation);
    case "rehearse_base_lane":
      return rehearse(invocation);
    case "record_checkpoint":
      return record(invocation);
    case "backup":
      return backup(invocation);
    case "resume":
      return resume(invocation);
    case "decide_continue_restart":
      return decide(invocation);
    default:
      return refuse("internal_error", `lane ${lane.id} has no ${manifest.operation}`);
  }
}

const pending = { label: pendingLabel, step: 0 };

function start(invocation: Invocation): string {
  const plan = lanePlan(invocation);
  writeLaunch(invocation, plan, pending);
  writePendingPointer(invocation);
  if (invocation.manifest.dry_run) {
    writeStatus(invocation, "dry_run_planned", pending, "Nothing was trained.");
    return planned(plan, 0);
  }
  const trained = trainWindow(invocation, plan);
  const at = { label: pendingLabel, step: trained.end.step };
  writeStatus(invocation, "launch_staged", at, "A window was trained; its last state is to be recorded.");
  writeCloseout(invocation, "open");
  return told(trained);
}

function writeCloseout(invocation: Invocation, outcome: "open" | "accepted"): void {
  invocation.root.write(closeoutPath, sealed(closeoutBundle, { ...headOf(invocation), outcome }));
}

function record(invocation: Invocation): string {
  const { root, manifest } = invocation;
  if (!root.has(statusPath))
    return refuse("checkpoint_missing", `${root.root} holds no started run of lane ${invocation.lane.id}`);
  const recorded = recordedObject(root, manifest);
  const { step, fresh: _, ...object } = recorded;
  const profile = recordedProfile(root, recorded);
  const dataset = profile.data.map(({ identity }) => identity).join("+");
  const [label, ref] = [manifest.checkpoint_label ?? "", manifest.checkpoint_ref ?? ""];
  const accepted = acceptActual(invocation, { label, step }, ref, object, dataset);
  const failed = tryBackup(invocation, accepted);
  const { phase, told } = evaluate(invocation, accepted, profile);
  const copied = failed === undefined ? "and backed up" : `and not backed up: ${failed}`;
  writeStatus(invocation, phase, { label, step }, `A checkpoint was accepted ${copied}. ${told}`);
  const done = `Accepted step ${step} as ${label}, ${object.checkpoint_total_bytes} bytes. ${told}`;
  return failed === undefined ? done : `${done} It is not backed up: ${failed}`;
}

function primaryOf(invocation: Invocation): Accepted {
  const looked = lookAtPrimary(invocation);
  if (looked.state === "accepted") return looked.accepted;
  return refuse("checkpoint_missing", `no accepted checkpoint in ${invocation.root.root}: ${looked.reason}`);
}

function backup(invocation: Invocation): string {
  const { root, manifest } = invocation;
  if (!root.has(statusPath))
    return refuse("checkpoint_missing", `${root.root} holds no started run of lane ${invocation.lane.id}`);
  const accepted = primaryOf(invocation);
  const at = atOf(accepted);
  if (manifest.inject_failed_upload) {
    refuseBackup(invocation, accepted, "The failure was asked for.");
    writeStatus(invocation, "checkpoint_backup_refused", at, "The accepted checkpoint was not copied.");
    return `Copied nothing of ${at.label}: the failure was asked for.`;
  }
  const failed = tryBackup(invocation, accepted);
  if (failed !== undefined) {
    writeStatus(invocation, "checkpoint_backup_refused", at, "The accepted checkpoint was not copied.");
    return `Copied nothing of ${at.label}: ${failed}`;
  }
  writeStatus(invocation, "checkpoint_backed_up", at, "The accepted checkpoint has a second copy.");
  return `Copied ${at.label} of step ${at.step} and hashed the copy.`;
}

const atOf = ({ pointer }: Accepted) => ({
  label: pointer.checkpoint_label,
  step: Number(pointer.optimizer_step),
});

function resume(invocation: Invocation): string {
  const { manifest } = invocation;
  const found = recoverActual(invocation);
  if ("refusal" in found) return refuse("checkpoint_missing", found.refusal);
  const at = atOf(found.accepted);
  const plan = lanePlan(invocation);
  writeLaunch(invocation, plan, at);
  if (manifest.dry_run) {
    writeStatus(invocation, "resume_dry_run_planned", at, "Nothing was trained.");
    return planned(plan, at.step);
  }
  const named = found.accepted.manifest;
  const [object_digest, object_bytes] = [
    named.checkpoint_object_digest,
    Number(named.checkpoint_total_bytes),
  ];
  // whoever loads it hashes it
  const start = { state: { step: at.step, object_digest, object_bytes }, path: objectPathOf(at.step) };
  const trained = trainWindow(invocation, plan, start);
  const reached = { label: at.label, step: trained.end.step };
  writeStatus(invocation, "resume_staged", reached, "A window was trained from the accepted checkpoint.");
  return `Resumed from ${found.source}. ${told(trained)}`;
}

/** From what the run root shows: go on, begin again from the checkpoint, or have a person look. */
function decide(invocation: Invocation): string {
  const { root } = invocation;
  const accepted = primaryOf(invocation);
  const at = atOf(accepted);
  const losses = windowLosses(root);
  const backed = copyHolds(root, accepted);
  const evaluated = evaluationOf(root, accepted);
  const decision: (typeof decisionStates)[number] = !losses.sound
    ? "restart_from_last_accepted_checkpoint"
    : backed && evaluated?.decision_state === "continue"
      ? "continue"
      : "hold_and_investigate";
  const document = sealed(continueRestartDecision, {
    ...headOf(invocation),
    ...{ checkpoint_label: at.label, optimizer_step: at.step, decision_state: decision },
    ...{ first_loss: losses.first, last_loss: losses.last, checkpoint_backed_up: backed },
    checkpoint_eval_decision_state: evaluated?.decision_state ?? null,
    validation_loss: evaluated?.validation_loss ?? null,
  });
  root.write(`decisions/continue_restart_decision_step-${at.step}.json`, document);
  root.write("decisions/latest_continue_restart_decision.json", document);
  const phases: Readonly<Record<typeof decision, Phase>> = {
    continue: "continue_decision_recorded",
    restart_from_last_accepted_checkpoint: "restart_decision_recorded",
    hold_and_investigate: "hold_decision_recorded",
  };
  writeStatus(invocation, phases[decision], at, `Decided: ${decision}.`);
  return `Decided ${decision} at step ${at.step}.`;
}

/** A window, its checkpoint and backup in one go; where it ends the checkpoint was read again from its bytes. */
function rehearse(invocation: Invocation): string {
  const begun = start(invocation);
  if (invocation.manifest.dry_run) return begun;
  const plan = lanePlan(invocation);
  const { steps } = plan.profile;
  const label = "base_lane_rehearsal";
  const manifest = { ...invocation.manifest, checkpoint_label: label, optimizer_step: steps };
  const recorded: Invocation = {
    ...invocation,
    manifest: {
      ...manifest,
      checkpoint_ref: `checkpoint://psion/actual_pretraining/rehearsal/step-${steps}`,
    },
  };
  record(recorded);
  const { accepted } = { accepted: primaryOf(invocation) };
  writeStatus(invocation, "base_lane_rehearsal_complete", atOf(accepted), "Trained, recorded, backed up.");
  writeCloseout(invocation, "accepted");
  return `${begun} Recorded and backed up.`;
}
