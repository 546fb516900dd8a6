/** A recorded checkpoint run on text that its steps do not read. */
import { PsionicError } from "../../core/error.ts";
import { float32Text } from "../../core/json.ts";
import { sealed } from "../documents.ts";
import { executionEvidence, type LaneProfile } from "../evidence.ts";
import { evidencePath, objectPathOf } from "../layout.ts";
import type { RunRoot } from "../run_root.ts";
import type { Invocation } from "../surfaces.ts";
import { type EvalDecision, evalDecision, evalFailure } from "./actual_documents.ts";
import { headOf, type Phase } from "./actual_files.ts";
import type { Accepted } from "./actual_recovery.ts";
import { spread } from "./window_plan.ts";
import { WindowSession } from "./window_session.ts";
import { planOf } from "./windowed.ts";

/** Windows that are run at most, evenly chosen. */
const mostWindows = 64;

const pathOf = (kind: string, step: number | bigint): string => `evals/${kind}_step-${step}.json`;

/** First and last loss of the last window that was trained here; sound: numbers, and the last not above the first by much. */
export function windowLosses(root: RunRoot) {
  const evidence = root.read(executionEvidence, evidencePath);
  const [first, last] = [evidence?.steps[0]?.loss ?? "none", evidence?.steps.at(-1)?.loss ?? "none"];
  const sound = Number.isFinite(Number(last)) && Number(last) <= Number(first) * 1.5;
  return { first, last, sound };
}

/** Runs the checkpoint's bytes and leaves what came of it; where they could not be run, why: to be tried again. */
export function evaluate(
  invocation: Invocation,
  accepted: Accepted,
  profile: LaneProfile,
): { readonly phase: Phase; readonly told: string } {
  const { root, manifest } = invocation;
  const { checkpoint_label, optimizer_step } = accepted.manifest;
  let reason = "The failure was asked for.";
  if (!manifest.inject_eval_worker_unavailable) {
    try {
      const decision = decided(invocation, accepted, profile);
      root.write(pathOf("checkpoint_eval", optimizer_step), decision);
      root.write("evals/latest_checkpoint_eval_decision.json", decision);
      return { phase: "checkpoint_evaluated", told: decision.decision_reason };
    } catch (cause) {
      if (!(cause instanceof PsionicError)) throw cause;
      reason = cause.message;
    }
  }
  const failure = sealed(evalFailure, {
    ...{ ...headOf(invocation), checkpoint_label, optimizer_step: Number(optimizer_step) },
    ...{ failure_kind: "eval_worker_unavailable", resolution_state: "retry_required", detail: reason },
  });
  root.write(pathOf("checkpoint_eval_failure", optimizer_step), failure);
  root.write("evals/latest_checkpoint_eval_failure.json", failure);
  return { phase: "checkpoint_eval_retry_required", told: `It was not evaluated: ${reason}` };
}

/** What the evaluation of this very checkpoint came to; undefined where there was none. */
export function evaluationOf(root: RunRoot, { manifest }: Accepted): EvalDecision | undefined {
  const found = root.read(evalDecision, pathOf("checkpoint_eval", manifest.optimizer_step));
  const same =
    found?.checkpoint_object_digest === manifest.checkpoint_object_digest &&
    found.checkpoint_ref === manifest.checkpoint_ref;
  return same ? found : undefined;
}

const text = (value: number): string => float32Text(Math.fround(value));

function decided(invocation: Invocation, { manifest }: Accepted, profile: LaneProfile): EvalDecision {
  const { root, capability } = invocation;
  const step = Number(manifest.optimizer_step);
  const plan = planOf(root, profile);
  const held = plan.heldOut();
  const windows = spread(held ?? plan.windows, mostWindows);
  using session = new WindowSession(plan, capability.backend_family);
  session.load(root.path(objectPathOf(step)), {
    ...{ step, object_digest: manifest.checkpoint_object_digest },
    object_bytes: Number(manifest.checkpoint_total_bytes),
  });
  const loss = session.trainer.evaluate(windows);
  const uniform = Math.log(plan.model.vocabularySize);
  const [what, good] = [held ? "held-out text" : "the text that it was trained on", loss < uniform];
  const losses = windowLosses(root);
  return sealed(evalDecision, {
    ...headOf(invocation),
    ...{ checkpoint_label: manifest.checkpoint_label, optimizer_step: step },
    checkpoint_ref: manifest.checkpoint_ref,
    checkpoint_object_digest: manifest.checkpoint_object_digest,
    lane_profile_digest: profile.profile_digest,
    validation_loss: held ? text(loss) : null,
    trained_text_loss: held ? null : text(loss),
    evaluated_tokens: windows.starts.length * windows.length,
    uniform_loss: text(uniform),
    ...{ first_loss: losses.first, last_loss: losses.last },
    decision_state: good ? "continue" : "hold_and_review",
    decision_reason: `Its loss on ${what} is ${loss.toFixed(4)}, ${good ? "below" : "not below"} the ${uniform.toFixed(4)} of a uniform guess.`,
  });
}
