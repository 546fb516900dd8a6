/** A stage process: it runs its parts of every step of a window, tied to its neighbours by files. */
import { readdirSync } from "node:fs";
import { openDevice } from "../backends/index.ts";
import type { Device } from "../runtime/device.ts";
import { type StagePlace, StageTrainer } from "../train/pipeline.ts";
import { refuse } from "./contract.ts";
import { openLaneDevice, refuseUnsupported } from "./lanes/lane_device.ts";
import { segmentSteps, type TracedStep } from "./lanes/segment_steps.ts";
import { loadState } from "./lanes/state_object.ts";
import { needDeviceMemory, needHostMemory } from "./lanes/window_memory.ts";
import { runWindow } from "./lanes/window_run.ts";
import { stageLinks } from "./stage_exchange.ts";
import { stepOfFile } from "./stage_files.ts";
import { writeOutput } from "./stage_output.ts";
import { placeOf, type StagePlan, stagePlan } from "./stage_plan.ts";
import { type StageWork, stageFolder } from "./stage_post.ts";
import { recoveredStart } from "./stage_recovery.ts";
import { type Invocation, resolvedRunId } from "./surfaces.ts";
import { workIdentity } from "./window.ts";
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
  const shapes = stageShapes(plan, placeOf(work.stage));
  needHostMemory(shapes, capability.backend_family);
  const device = openLaneDevice(capability.backend_family);
  try {
    needDeviceMemory(shapes, device, capability.backend_family);
    const steps = runStage(invocation, plan, work, device);
    const [first, last] = [steps[0]!, steps.at(-1)!];
    return `Ran ${steps.length} steps of ${what}; loss ${Number(first.loss).toFixed(4)} at first, ${Number(last.loss).toFixed(4)} at last.`;
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

/** Trains the window that is due, from what was recovered or else from the seed. */
function runStage(
  invocation: Invocation,
  plan: StagePlan,
  work: StageWork,
  device: Device,
): readonly TracedStep[] {
  const { root } = work;
  const backend = invocation.capability.backend_family;
  const start = recoveredStart(invocation);
  const done = start?.state.step ?? 0;
  using trainer = new StageTrainer(device, plan.model, plan.windows, plan.config, placeOf(work.stage));
  if (start) {
    loadState(trainer, root.path(start.path), start.state);
    trainer.resumeAt(done);
  }
  const links = stageLinks(work, trainer.shape);
  return runWindow(invocation, {
    ...{ plan, holder: trainer, done },
    begin() {
      removeOtherSteps(work, { first: done + 1, last: done + plan.profile.steps });
      writeOutput(work);
    },
    run: (segment) => segmentSteps(segment, () => trainer.step(links), backend),
  }).steps;
}

/** Bytes of a stage's state and of its step, from its shapes alone. */
function stageShapes({ model, windows, config }: StagePlan, place: StagePlace) {
  const device = openDevice("meta");
  try {
    using trainer = new StageTrainer(device, model, windows, config, place, "none");
    const stateBytes = device.live().bytes;
    const [rows, width] = trainer.shape;
    const zeros = () => new Float32Array(rows * width);
    const exchange = () => ({ gradient: zeros(), loss: 0, squares: [] });
    trainer.step({ input: zeros, exchange, giveBack() {}, agree: (_, known) => known });
    return { stateBytes, stepBytes: device.arena.peakBytes };
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    return refuse("bad_config", `lane profile for grouped stages: ${why}`, cause);
  } finally {
    device.close();
  }
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
