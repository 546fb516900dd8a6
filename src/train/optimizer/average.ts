import { unexpected } from "../../core/error.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import { mix } from "../../runtime/training.ts";
import type { Parameters } from "../parameters.ts";

/** `ema`: average = decay * average + (1 - decay) * parameters; `swa`: the mean of every `every`-th step from `from` on. */
export type AverageConfig =
  | { readonly kind: "ema"; readonly decay: number }
  | { readonly kind: "swa"; readonly from: number; readonly every: number };

/** A running average of the parameters, which is part of a checkpoint. */
export class WeightAverage implements Disposable {
  readonly values: Tensor;
  readonly #parameters: Parameters;
  readonly #config: AverageConfig;

  constructor(parameters: Parameters, config: AverageConfig) {
    const fits =
      config.kind === "ema"
        ? config.decay >= 0 && config.decay < 1
        : Number.isInteger(config.every) &&
          config.every >= 1 &&
          Number.isInteger(config.from) &&
          config.from >= 1;
    if (!fits)
      throw unexpected("invalid_argument", "weight average", "a usable setting", JSON.stringify(config));
    this.#parameters = parameters;
    this.#config = config;
    this.values = parameters.device.empty("f32", [parameters.elements]);
  }

  /** Takes the parameters after step `step`, which counts from 1, into the average. */
  update(step: number): void {
    const keep = this.#share(step);
    if (keep === undefined) return;
    mix(this.values, this.#parameters.values, keep, 1 - keep, undefined, undefined, this.values);
  }

  /** The old average's share of the new one; undefined where the step is not averaged. */
  #share(step: number): number | undefined {
    const c = this.#config;
    if (c.kind === "ema") return step === 1 ? 0 : c.decay;
    if (step < c.from || (step - c.from) % c.every !== 0) return undefined;
    const before = (step - c.from) / c.every;
    return before / (before + 1);
  }

  [Symbol.dispose](): void {
    this.#parameters.device.free(this.values);
  }
}
