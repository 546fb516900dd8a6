/** A stage process: it runs its parts of every step of a window, tied to its neighbours by files. */
import { readdirSync } from "node:fs";
import { float32Text } from "../core/json.ts";
import type { Device } from "../runtime/device.ts";
import { type StageStep, StageTrainer } from "../train/pipeline.ts";
import { refuse } from "./contract.ts";
import { sealed } from "./documents.ts";
import { type ExecutionEvidence, executionEvidence } from "./evidence.ts";
import { kernelDigest, openLaneDevice, refuseUnsupported } from "./lanes/lane_device.ts";
import { loadState, optimizerDigest, type StateRecord, writeState } from "./lanes/state_object.ts";
import { stepPlanDigest, windowData } from "./lanes/window_plan.ts";
import { segmentsOf } from "./lanes/window_session.ts";
import { evidencePath, retainedFolder, retainedPathOf, trainedProfilePath } from "./layout.ts";
import { type StageWork, stageFolder, stageLinks } from "./stage_exchange.ts";
import { stepOfFile } from "./stage_files.ts";
import { writeOutput } from "./stage_output.ts";
import { placeOf, type StagePlan, stagePlan } from "./stage_plan.ts";
import { recoveredStart } from "./stage_recovery.ts";
import { type Invocation, resolvedRunId } from "./surfaces.ts";
import { type WorkIdentity, workIdentity } from "./window.ts";
import type { Segment } from "./window_replayer.ts";

const patienceVariable = "PSIONIC_STAGE_WAIT_SECONDS";
const usualPatienceSeconds = 300;

/** `start` of a grouped stage: the whole window; says in a sentence what was done. */
export function performStage(invocation: Invocation, environment: NodeJS.ProcessEnv): string {
  const { root, lane, capability } = invocation;
  const plan = stagePlan(root, lane);
  const work = stageWork(invocation, plan, patienceMs(environment));
  const what = `stage ${work.stage.stage_index + 1} of ${work.stage.stage_count}`;
  if (invocation.manifest.dry_run) return `Planned ${plan.profile.steps} steps of ${what}; nothing was run.`;
  const device = openLaneDevice(capability.backend_family);
  try {
    const steps = runStage(invocation, plan, work, device);
    const [first, last] = [steps[0]!, steps.at(-1)!];
    return `Ran ${steps.length} steps of ${what}; loss ${first.loss.toFixed(4)} at first, ${last.loss.toFixed(4)} at last.`;
  } catch (cause) {
    return refuseUnsupported(cause, capability.backend_family);
  } finally {
    device.close();
  }
}

function patienceMs(environment: NodeJS.ProcessEnv): number {
  const text = environment[patienceVariable] ?? "";
  const seconds = text === "" ? usualPatienceSeconds : Number(text);
  if (seconds > 0 && seconds <= 86_400) return Math.ceil(seconds * 1000);
  return refuse(
    "bad_config",
    `${patienceVariable}: expected seconds from above 0 to 86400, got ${JSON.stringify(text.slice(0, 60))}`,
  );
}

function stageWork(invocation: Invocation, plan: StagePlan, patience: number): StageWork {
  const { manifest, root } = invocation;
  const stage = manifest.grouped_stage_assignment;
  const work = workIdentity(manifest.lane_id, resolvedRunId(invocation), manifest.coordination, stage);
  if (!stage || !work) return refuse("grouped_stage_assignment_invalid", "no stage of a window to run");
  return {
    ...{ root, manifest, stage, work },
    ...{ profileDigest: plan.profile.profile_digest, patienceMs: patience },
  };
}

/** Trains the window that is due; its states lie at `retainedPathOf(step)`, not yet accepted by anyone. */
function runStage(
  invocation: Invocation,
  plan: StagePlan,
  work: StageWork,
  device: Device,
): readonly StageStep[] {
  const { root } = work;
  const start = recoveredStart(invocation);
  const done = start?.state.step ?? 0;
  const window = { first: done + 1, last: done + plan.profile.steps };
  removeOtherSteps(work, window);
  // evidence goes first, so that it never names states that are being replaced
  root.remove(evidencePath);
  root.remove(retainedFolder);
  writeOutput(work);
  using trainer = new StageTrainer(device, plan.model, plan.windows, plan.config, placeOf(work.stage));
  if (start) {
    loadState(trainer, root.path(start.path), start.state);
    trainer.resumeAt(done);
  }
  const keep = (step: number): StateRecord => writeState(trainer, root.place(retainedPathOf(step)), step);
  const links = stageLinks(work, trainer.shape);
  const first = keep(done);
  const steps: StageStep[] = [];
  const states: StateRecord[] = [];
  const begun = performance.now();
  for (const segment of segmentsOf(window, plan.retainEvery)) {
    while (trainer.completedSteps < segment.last) steps.push(trainer.step(links));
    states.push(keep(segment.last));
  }
  const durationMs = Math.round(performance.now() - begun);
  root.write(trainedProfilePath, plan.profile);
  root.write(
    evidencePath,
    evidenceOf(invocation, plan, work.work, trainer, { first, steps, states, durationMs }),
  );
  return steps;
}

/** Steps of an earlier run of the same assignment that this window does not have. */
function removeOtherSteps(work: StageWork, { first, last }: Segment): void {
  const folder = stageFolder(work);
  for (const place of [folder, `${folder}/artifacts`]) {
    if (!work.root.has(place)) continue;
    for (const name of readdirSync(work.root.path(place))) {
      const step = stepOfFile(name);
      if (step !== undefined && (step < first || step > last)) work.root.remove(`${place}/${name}`);
    }
  }
}

type Ran = {
  readonly first: StateRecord;
  readonly steps: readonly StageStep[];
  readonly states: readonly StateRecord[];
  readonly durationMs: number;
};

function evidenceOf(
  { manifest, capability }: Invocation,
  plan: StagePlan,
  work: WorkIdentity,
  trainer: StageTrainer,
  { first, steps, states, durationMs }: Ran,
): ExecutionEvidence {
  const end = states.at(-1)?.object_digest ?? first.object_digest;
  return sealed(executionEvidence, {
    ...{ lane_id: work.laneId, work_class: manifest.work_class, run_id: work.runId },
    ...{ window_id: work.windowId, assignment_id: work.assignmentId },
    lane_profile_digest: plan.profile.profile_digest,
    start_state_digest: first.object_digest,
    data: windowData(plan, first.step + 1, first.step + steps.length),
    seed: plan.profile.seed,
    steps: steps.map((s) => ({
      step: s.step,
      loss: float32Text(s.loss),
      gradient_norm: float32Text(s.gradientNorm),
      learning_rate: float32Text(s.learningRate),
    })),
    retained_states: [...states],
    end_state_digest: end,
    optimizer_state_digest: optimizerDigest(trainer),
    checkpoint_object_digest: end,
    backend: capability.backend_family,
    kernel_library_digest: kernelDigest(trainer.device),
    plan_digest: stepPlanDigest(plan),
    duration_ms: durationMs,
  });
}
