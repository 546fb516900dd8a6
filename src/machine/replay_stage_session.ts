/** A stage whose steps are done again: its neighbours are what its contribution has of them. */
import { float32Text } from "../core/json.ts";
import { StageTrainer } from "../train/pipeline.ts";
import { refuse } from "./contract.ts";
import { kernelDigest, openLaneDevice, refuseUnsupported } from "./lanes/lane_device.ts";
import { takeState } from "./lanes/state_object.ts";
import type { WindowPlan } from "./lanes/window_plan.ts";
import type { OpenSession, ReplaySession } from "./lanes/window_replay.ts";
import type { TracedStep } from "./lanes/window_session.ts";
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
      this.trainer = new StageTrainer(device, plan.model, plan.windows, plan.config, placeOf(stage));
    } catch (cause) {
      device.close();
      throw cause;
    }
    const { evidence } = target;
    const same = backend === evidence.backend && this.kernels === evidence.kernel_library_digest;
    this.#neighbours = new ReplayedNeighbours(target, stage, this.trainer.shape, same);
  }

  get differences(): readonly Difference[] {
    return this.#neighbours.differences;
  }

  take(path: string, step: number): void {
    try {
      takeState(this.trainer, path);
      this.trainer.resumeAt(step);
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      refuse("artifact_digest_mismatch", `retained state: ${why}`, cause);
    }
  }

  run({ first, last }: Segment): TracedStep[] {
    const text = (value: number): string => float32Text(Math.fround(value));
    try {
      return Array.from({ length: last - first + 1 }, () => {
        const { step, loss, gradientNorm, learningRate } = this.trainer.step(this.#neighbours);
        return {
          ...{ step, loss: text(loss), gradient_norm: text(gradientNorm) },
          learning_rate: text(learningRate),
        };
      });
    } catch (cause) {
      return refuseUnsupported(cause, this.#backend);
    }
  }

  [Symbol.dispose](): void {
    this.trainer[Symbol.dispose]();
    this.trainer.device.close();
  }
}
