/** Steps from a retained state, as evidence has them: of a whole model and of a stage alike. */
import { float32Text } from "../../core/json.ts";
import type { TracedStep as TrainedStep } from "../../train/trainer.ts";
import { refuse } from "../contract.ts";
import type { Segment, Trace } from "../window_replayer.ts";
import { refuseUnsupported } from "./lane_device.ts";
import { type BoundFile, type StateHolder, takeState } from "./state_object.ts";

export type TracedStep = Trace & { readonly step: number };

/** Values of a step as evidence has them: 32-bit floats as text. */
const text = (value: number): string => float32Text(Math.fround(value));

/** Goes on from a state that a worker retained after `step`. `artifact_digest_mismatch` where it is none. */
export function takeRetained(
  holder: StateHolder & { resumeAt(step: number): void },
  file: BoundFile,
  step: number,
): void {
  try {
    takeState(holder, file);
    holder.resumeAt(step);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    refuse("artifact_digest_mismatch", `retained state: ${why}`, cause);
  }
}

/** Steps `first` to `last`, of which `first` is due. */
export function segmentSteps(
  { first, last }: Segment,
  next: () => Pick<TrainedStep, "step" | "loss" | "gradientNorm" | "learningRate">,
  backend: string,
): TracedStep[] {
  try {
    return Array.from({ length: last - first + 1 }, () => {
      const { step, loss, gradientNorm, learningRate } = next();
      return {
        ...{ step, loss: text(loss), gradient_norm: text(gradientNorm) },
        learning_rate: text(learningRate),
      };
    });
  } catch (cause) {
    return refuseUnsupported(cause, backend);
  }
}
