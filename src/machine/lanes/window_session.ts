/** Steps of a plan on a device, one after the other from a given state. */

import { float32Text } from "../../core/json.ts";
import type { Device } from "../../runtime/device.ts";
import { availableBytes } from "../../train/plan.ts";
import { Trainer } from "../../train/trainer.ts";
import { refuse } from "../contract.ts";
import type { Segment, Trace } from "../window_replayer.ts";
import { kernelDigest, openLaneDevice, refuseUnsupported } from "./lane_device.ts";
import { loadState, type StateRecord, takeState } from "./state_object.ts";
import { stepShapes, type WindowPlan } from "./window_plan.ts";

export type TracedStep = Trace & { readonly step: number };

/** Values of a step as evidence has them: 32-bit floats as text. */
const text = (value: number): string => float32Text(Math.fround(value));

export class WindowSession implements Disposable {
  readonly plan: WindowPlan;
  readonly backend: string;
  readonly device: Device;
  readonly trainer: Trainer;

  /** At the state that the seed gives; `unsupported_topology` where the backend is not here or lacks an op. */
  constructor(plan: WindowPlan, backend: string) {
    this.plan = plan;
    this.backend = backend;
    const { stateBytes, stepBytes } = stepShapes(plan);
    if (backend === "cpu") needMemory(stateBytes + stepBytes, availableBytes(), "this machine");
    this.device = openLaneDevice(backend);
    try {
      const memory = this.device.backend.memory?.();
      if (memory) needMemory(stateBytes + stepBytes, memory.free, `the ${backend} device`);
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
  take(path: string, step: number): void {
    try {
      takeState(this.trainer, path);
      this.trainer.resumeAt(step);
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      refuse("artifact_digest_mismatch", `retained state: ${why}`, cause);
    }
  }

  /** Steps `first` to `last`, of which `first` is due. */
  run({ first, last }: Segment): TracedStep[] {
    try {
      return Array.from({ length: last - first + 1 }, () => {
        const { step, loss, gradientNorm, learningRate } = this.trainer.step();
        return {
          ...{ step, loss: text(loss), gradient_norm: text(gradientNorm) },
          learning_rate: text(learningRate),
        };
      });
    } catch (cause) {
      return refuseUnsupported(cause, this.backend);
    }
  }

  [Symbol.dispose](): void {
    this.trainer[Symbol.dispose]();
    this.plan.adapter?.release(this.device);
    this.device.close();
  }
}

function needMemory(bytes: number, available: number, where: string): void {
  if (bytes <= available) return;
  refuse(
    "unsupported_topology",
    `the lane profile's training takes ${bytes} bytes of memory, ${where} has ${Math.floor(available)} left`,
  );
}

/** The parts of a window that end where a state is retained. */
export function segmentsOf({ first, last }: Segment, every: number): Segment[] {
  const count = Math.ceil((last - first + 1) / every);
  return Array.from({ length: count }, (_, i) => ({
    first: first + i * every,
    last: Math.min(last, first + (i + 1) * every - 1),
  }));
}
