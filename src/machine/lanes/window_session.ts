/** Steps of a plan on a device, one after the other from a given state. */

import type { Device } from "../../runtime/device.ts";
import { Trainer } from "../../train/trainer.ts";
import type { Segment } from "../window_replayer.ts";
import { kernelDigest, openLaneDevice, refuseUnsupported } from "./lane_device.ts";
import { segmentSteps, type TracedStep, takeRetained } from "./segment_steps.ts";
import { type BoundFile, loadState, type StateRecord } from "./state_object.ts";
import { needDeviceMemory, needHostMemory } from "./window_memory.ts";
import { stepShapes, type WindowPlan } from "./window_plan.ts";

export class WindowSession implements Disposable {
  readonly plan: WindowPlan;
  readonly backend: string;
  readonly device: Device;
  readonly trainer: Trainer;

  /** At the state that the seed gives; `unsupported_topology` where the backend is not here or lacks an op. */
  constructor(plan: WindowPlan, backend: string) {
    this.plan = plan;
    this.backend = backend;
    const shapes = stepShapes(plan);
    needHostMemory(shapes, backend);
    this.device = openLaneDevice(backend);
    try {
      needDeviceMemory(shapes, this.device, backend);
      plan.adapter?.hold(this.device);
      this.trainer = new Trainer(this.device, plan.model, plan.windows, plan.config);
    } catch (cause) {
      plan.adapter?.release(this.device);
      this.device.close();
      throw refuseUnsupported(cause, backend);
    }
  }

  /** A whole model has no neighbours to disagree with. */
  readonly differences = [];

  /** SHA-256 of the kernels that compute here. */
  get kernels(): string {
    return kernelDigest(this.device);
  }

  /** Goes on from a state in a file. */
  load(path: string, record: StateRecord): void {
    loadState(this.trainer, path, record);
    this.trainer.resumeAt(record.step);
  }

  /** Goes on from a state that a worker retained after `step`. `artifact_digest_mismatch` where it is none. */
  take(file: BoundFile, step: number): void {
    takeRetained(this.trainer, file, step);
  }

  /** Steps `first` to `last`, of which `first` is due. */
  run(segment: Segment): TracedStep[] {
    return segmentSteps(segment, () => this.trainer.step(), this.backend);
  }

  [Symbol.dispose](): void {
    this.trainer[Symbol.dispose]();
    this.plan.adapter?.release(this.device);
    this.device.close();
  }
}

/** The parts of a window that end where a state is retained. */
export function segmentsOf({ first, last }: Segment, every: number): Segment[] {
  const count = Math.ceil((last - first + 1) / every);
  return Array.from({ length: count }, (_, i) => ({
    first: first + i * every,
    last: Math.min(last, first + (i + 1) * every - 1),
  }));
}
