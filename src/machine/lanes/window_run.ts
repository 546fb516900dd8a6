/** The steps of a window with what they leave: states on the way, the profile, evidence at the end. */
import { checkRoom } from "../../train/durable.ts";
import { refuse } from "../contract.ts";
import { sealed } from "../documents.ts";
import { type ExecutionEvidence, executionEvidence } from "../evidence.ts";
import { evidencePath, retainedFolder, retainedPathOf, trainedProfilePath } from "../layout.ts";
import { type Invocation, resolvedRunId } from "../surfaces.ts";
import type { Segment } from "../window_replayer.ts";
import { kernelDigest } from "./lane_device.ts";
import type { TracedStep } from "./segment_steps.ts";
import { optimizerDigest, type StateHolder, type StateRecord, writeState } from "./state_object.ts";
import { stepPlanDigest, type WindowPlan, windowData } from "./window_plan.ts";
import { segmentsOf } from "./window_session.ts";

/** What takes the steps: a trainer of the whole model, or of a stage of it, at the state after `done` steps. */
export type WindowWork = {
  readonly plan: WindowPlan;
  readonly holder: StateHolder;
  readonly done: number;
  /** Called once what an earlier window left is gone. */
  begin?(): void;
  run(segment: Segment): readonly TracedStep[];
  /** Called before the evidence is written. */
  end?(): void;
};

export type TrainedWindow = {
  readonly window: Segment;
  readonly steps: readonly TracedStep[];
  readonly end: StateRecord;
};

/** Trains the window that is due; its states lie at `retainedPathOf(step)`, not yet accepted by anyone. */
export function runWindow(invocation: Invocation, work: WindowWork): TrainedWindow {
  const { root } = invocation;
  const { plan, holder, done } = work;
  const window = { first: done + 1, last: done + plan.profile.steps };
  const segments = segmentsOf(window, plan.retainEvery);
  checkPlace(root.root, holder, segments.length + 1);
  // evidence goes first, so that it never names states that are being replaced
  root.remove(evidencePath);
  root.remove(retainedFolder);
  root.write(trainedProfilePath, plan.profile);
  work.begin?.();
  const keep = (step: number): StateRecord => writeState(holder, root.place(retainedPathOf(step)), step);
  const first = keep(done);
  const begun = performance.now();
  const steps: TracedStep[] = [];
  const states: StateRecord[] = [];
  for (const segment of segments) {
    steps.push(...work.run(segment));
    states.push(keep(segment.last));
  }
  const durationMs = Math.round(performance.now() - begun);
  work.end?.();
  root.write(evidencePath, evidenceOf(invocation, work, { window, steps, first, states, durationMs }));
  return { window, steps, end: states.at(-1)! };
}

/** States are written all along a window, so room for them is asked for before it begins; less is to be tried again. */
function checkPlace(root: string, { parameters }: StateHolder, states: number): void {
  try {
    checkRoom(root, states * parameters.elements * 4 * 3);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    refuse("artifact_incomplete", `room for ${states} retained states: ${why}`, cause);
  }
}

type Ran = {
  readonly window: Segment;
  readonly steps: readonly TracedStep[];
  readonly first: StateRecord;
  readonly states: readonly StateRecord[];
  readonly durationMs: number;
};

function evidenceOf(
  invocation: Invocation,
  { plan, holder }: WindowWork,
  { window, steps, first, states, durationMs }: Ran,
): ExecutionEvidence {
  const { manifest, lane, capability } = invocation;
  const { window_id, assignment_id } = manifest.coordination;
  const run_id = resolvedRunId(invocation);
  const end = states.at(-1)!;
  return sealed(executionEvidence, {
    lane_id: lane.id,
    ...{ work_class: manifest.work_class, run_id, window_id, assignment_id },
    lane_profile_digest: plan.profile.profile_digest,
    start_state_digest: first.object_digest,
    data: windowData(plan, window.first, window.last),
    seed: plan.profile.seed,
    steps: [...steps],
    retained_states: [...states],
    end_state_digest: end.object_digest,
    optimizer_state_digest: optimizerDigest(holder),
    checkpoint_object_digest: end.object_digest,
    backend: capability.backend_family,
    kernel_library_digest: kernelDigest(holder.device),
    plan_digest: stepPlanDigest(plan),
    duration_ms: durationMs,
  });
}
