/** A window of steps really trained: states retained on the way, evidence at its end. */
import { checkRoom } from "../../train/durable.ts";
import { refuse } from "../contract.ts";
import { sealed } from "../documents.ts";
import { type ExecutionEvidence, executionEvidence } from "../evidence.ts";
import { evidencePath, retainedFolder, retainedPathOf, trainedProfilePath } from "../layout.ts";
import type { Invocation } from "../surfaces.ts";
import { resolvedRunId } from "../surfaces.ts";
import type { Segment } from "../window_replayer.ts";
import { exportAdapter } from "./adapter_export.ts";
import type { TracedStep } from "./segment_steps.ts";
import { optimizerDigest, type StateRecord, writeState } from "./state_object.ts";
import { stepPlanDigest, type WindowPlan, windowData } from "./window_plan.ts";
import { segmentsOf, WindowSession } from "./window_session.ts";

/** A checkpoint below the run root that a window goes on from. */
export type WindowStart = { readonly state: StateRecord; readonly path: string };

export type TrainedWindow = {
  readonly window: Segment;
  readonly steps: readonly TracedStep[];
  readonly end: StateRecord;
};

/** Trains the window that is due; its states lie at `retainedPathOf(step)`, not yet accepted by anyone. */
export function trainWindow(invocation: Invocation, plan: WindowPlan, start?: WindowStart): TrainedWindow {
  const { root, capability } = invocation;
  const done = start?.state.step ?? 0;
  const window = { first: done + 1, last: done + plan.profile.steps };
  using session = new WindowSession(plan, capability.backend_family);
  if (start) session.load(root.path(start.path), start.state);
  const segments = segmentsOf(window, plan.retainEvery);
  checkPlace(root.root, session, segments.length + 1);
  // evidence goes first, so that it never names states that are being replaced
  root.remove(evidencePath);
  root.remove(retainedFolder);
  const keep = (step: number): StateRecord =>
    writeState(session.trainer, root.place(retainedPathOf(step)), step);
  const first = keep(done);
  const begun = performance.now();
  const steps: TracedStep[] = [];
  const states: StateRecord[] = [];
  for (const segment of segments) {
    steps.push(...session.run(segment));
    states.push(keep(segment.last));
  }
  const durationMs = Math.round(performance.now() - begun);
  const end = states.at(-1)!;
  root.write(trainedProfilePath, plan.profile);
  exportAdapter(root, session.trainer, plan);
  root.write(evidencePath, evidenceOf(invocation, session, { window, steps, first, states, durationMs }));
  return { window, steps, end };
}

/** States are written all along a window, so room for them is asked for before it begins; less is to be tried again. */
function checkPlace(root: string, { trainer }: WindowSession, states: number): void {
  try {
    checkRoom(root, states * trainer.parameters.elements * 4 * 3);
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
  { plan, trainer, kernels }: WindowSession,
  { window, steps, first, states, durationMs }: Ran,
): ExecutionEvidence {
  const { manifest, lane, capability } = invocation;
  const { window_id, assignment_id } = manifest.coordination;
  const end = states.at(-1)!;
  return sealed(executionEvidence, {
    lane_id: lane.id,
    ...{ work_class: manifest.work_class, run_id: resolvedRunId(invocation), window_id, assignment_id },
    lane_profile_digest: plan.profile.profile_digest,
    start_state_digest: first.object_digest,
    data: windowData(plan, window.first, window.last),
    seed: plan.profile.seed,
    steps: [...steps],
    retained_states: [...states],
    end_state_digest: end.object_digest,
    optimizer_state_digest: optimizerDigest(trainer),
    checkpoint_object_digest: end.object_digest,
    backend: capability.backend_family,
    kernel_library_digest: kernels,
    plan_digest: stepPlanDigest(plan),
    duration_ms: durationMs,
  });
}
