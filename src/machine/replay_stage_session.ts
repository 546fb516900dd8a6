/** A stage whose steps are done again: its neighbours are what its contribution has of them. */
import { StageTrainer } from "../train/pipeline.ts";
import { refuse } from "./contract.ts";
import { kernelDigest, openLaneDevice } from "./lanes/lane_device.ts";
import { segmentSteps, type TracedStep, takeRetained } from "./lanes/segment_steps.ts";
import type { BoundFile } from "./lanes/state_object.ts";
import type { WindowPlan } from "./lanes/window_plan.ts";
import type { OpenSession, ReplaySession } from "./lanes/window_replay.ts";
import { placeOf, plannedStages } from "./stage_plan.ts";
import { ReplayedNeighbours } from "./stage_replay.ts";
import type { Difference, ReplayTarget, Segment } from "./window_replayer.ts";

export const stageSession: OpenSession = (target, backend, files) =>
  new StageSession(target, backend, plannedStages(target.profile, files));

class StageSession implements ReplaySession {
  readonly plan: WindowPlan;
  readonly kernels: string;
  readonly trainer: StageTrainer;
  readonly #backend: string;
  readonly #neighbours: ReplayedNeighbours;

  constructor(target: ReplayTarget, backend: string, plan: WindowPlan) {
    const stage = target.stage ?? refuse("artifact_incomplete", "grouped work without a stage");
    this.plan = plan;
    this.#backend = backend;
    const device = openLaneDevice(backend);
    try {
      this.kernels = kernelDigest(device);
      onWorkersKernels(target, backend, this.kernels);
      this.trainer = new StageTrainer(device, plan.model, plan.windows, plan.config, placeOf(stage));
    } catch (cause) {
      device.close();
      throw cause;
    }
    this.#neighbours = new ReplayedNeighbours(target, stage, this.trainer.shape);
  }

  get differences(): readonly Difference[] {
    return this.#neighbours.differences;
  }

  take(file: BoundFile, step: number): void {
    takeRetained(this.trainer, file, step);
  }

  run(segment: Segment): TracedStep[] {
    return segmentSteps(segment, () => this.trainer.step(this.#neighbours), this.#backend);
  }

  [Symbol.dispose](): void {
    this.trainer[Symbol.dispose]();
    this.trainer.device.close();
  }
}

/** What a stage hands on cannot be held against digests within bounds, and a stage is judged by that. */
function onWorkersKernels({ evidence }: ReplayTarget, backend: string, kernels: string): void {
  if (backend === evidence.backend && kernels === evidence.kernel_library_digest) return;
  refuse(
    "unsupported_topology",
    "grouped work is judged on the worker's own kernels: what a stage hands on differs on others in its last bits",
  );
}
