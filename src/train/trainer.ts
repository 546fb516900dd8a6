import { PsionicError, unexpected } from "../core/error.ts";
import { batchOf, type HostBatch, type Windows } from "../data/batches.ts";
import type { RoundingFormat } from "../ir/ops/block_round.ts";
import type { Device } from "../runtime/device.ts";
import { Tape } from "../runtime/tape.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { crossEntropy, headLoss, mix, sum } from "../runtime/training.ts";
import type { Batch, ParameterSpec, Scene, TrainedModel } from "./model.ts";
import { type AverageConfig, WeightAverage } from "./optimizer/average.ts";
import type { ParameterGroup } from "./optimizer/config.ts";
import { Optimizer } from "./optimizer/optimizer.ts";
import { Parameters, part } from "./parameters.ts";
import { type PassLosses, RecordedPass } from "./recorded_pass.ts";
import { budgetOf, checkSchedule, progressAt, rateAt, type Schedule } from "./schedule.ts";
import { WindowOrder } from "./window_order.ts";

export type TrainerConfig = {
  readonly seed: number;
  /** Sequences of a microbatch, and microbatches whose gradients make a step. */
  readonly sequences: number;
  readonly accumulation: number;
  readonly learningRate: number;
  readonly schedule: Schedule;
  readonly groups: readonly ParameterGroup[];
  /** Limit of the gradients' global norm; Infinity: none. */
  readonly clip: number;
  /**
   * bf16: matrices and what they meet are rounded to it in the forward and backward pass, on GPUs everything but the residual
   * stream; masters stay f32.
   */
  readonly precision: "f32" | "bf16";
  /** Blocks are run again in the backward pass instead of kept. */
  readonly recompute: boolean;
  readonly average?: AverageConfig;
  /** A quantisation-aware finish. */
  readonly rounding?: RoundingConfig;
};

/** From share `from` of the schedule on, 0..1, the forward pass sees parameters as the file formats they go to hold them. */
export type RoundingConfig = {
  readonly from: number;
  readonly formatOf: (spec: ParameterSpec) => RoundingFormat | undefined;
};

/** What a step did; `loss` is the mean over its tokens, in nats. */
export type StepRecord = {
  readonly step: number;
  readonly loss: number;
  /** The router's load-balance term, where the model has one. */
  readonly extraLoss?: number;
  /** Before clipping. */
  readonly gradientNorm: number;
  readonly learningRate: number;
  readonly tokens: number;
  readonly durationMs: number;
  readonly groups: readonly GroupRecord[];
};

/** What the trace of a run keeps of a step. */
export type TracedStep = Omit<StepRecord, "groups"> & {
  /** Bytes of memory after the step: of the device where it has its own, else of this process. */
  readonly memoryBytes?: number;
  /** What the step has waited for its data, and how often for as long as counts as a stall. */
  readonly waitedMs?: number;
  readonly stalls?: number;
};

/** One group of parameters in a step; norms are of all its parameters together. */
export type GroupRecord = {
  readonly id: string;
  readonly optimizer: string;
  readonly learningRate: number;
  readonly weightDecay: number;
  readonly gradientNorm: number;
  readonly clippedGradientNorm: number;
  readonly parameterNorm: number;
};

/** A loss or gradient that is no number: training stops, parameters are those of the step before. */
export class NotFiniteError extends PsionicError {
  constructor(step: number, tensor: string, what: string) {
    const fix = "The last checkpoint is intact; lower the learning rate or look at the data of this step";
    super("not_finite", `[train] expected finite numbers at step ${step}, got ${what} in ${tensor}. ${fix}`, {
      step,
      tensor,
    });
    this.name = "NotFiniteError";
  }
}

/** Devices that train one model together, each on its share of a step's microbatches. */
export type Replicas = {
  readonly rank: number;
  readonly count: number;
  /** Sums a tensor over all, in place. */
  sum(t: Tensor): void;
};

/** Trains one model on one device, or on each of several the same; the state after a step is a function of config, data and the number of the step. */
export class Trainer implements Disposable {
  readonly device: Device;
  readonly model: TrainedModel;
  readonly config: TrainerConfig;
  readonly parameters: Parameters;
  readonly optimizer: Optimizer;
  readonly average: WeightAverage | undefined;
  readonly #windows: Windows;
  /** Where launches are worth recording. */
  readonly #recorded: RecordedPass | undefined;
  readonly #group: Replicas | undefined;
  #step = 0;
  #elapsedMs = 0;
  readonly #order: WindowOrder;

  /** `initial` none: the buffers are zeros, for whoever fills them or wants their sizes alone. */
  constructor(
    device: Device,
    model: TrainedModel,
    windows: Windows,
    config: TrainerConfig,
    initial: "seed" | "none" = "seed",
    group?: Replicas,
  ) {
    checkConfig(model, windows, config);
    this.device = device;
    this.model = model;
    this.config = config;
    this.#windows = windows;
    if (group && config.accumulation % group.count !== 0) {
      const shares = `accumulation in multiples of ${group.count} replicas`;
      throw unexpected("invalid_argument", "train", shares, config.accumulation);
    }
    this.#group = group;
    this.#order = new WindowOrder(config.seed, windows.starts.length);
    this.parameters = new Parameters(device, model, config.precision, config.rounding?.formatOf);
    this.optimizer = new Optimizer(this.parameters, config.groups, config.clip);
    const { captures, asynchronous } = device.backend;
    this.#recorded = captures && asynchronous ? new RecordedPass(device) : undefined;
    this.average = config.average && new WeightAverage(this.parameters, config.average);
    if (initial === "seed") this.parameters.initialise(config.seed);
  }

  /** Steps done. */
  get completedSteps(): number {
    return this.#step;
  }

  /** What the steps so far took, where rates depend on it. */
  get elapsedMs(): number | undefined {
    return budgetOf(this.config.schedule) === undefined ? undefined : this.#elapsedMs;
  }

  /** Whether the time that steps may take is spent. */
  get timeIsUp(): boolean {
    return this.#elapsedMs >= (budgetOf(this.config.schedule) ?? Number.POSITIVE_INFINITY);
  }

  /** Takes up after `step`, before which steps took `elapsedMs`; the buffers must hold what they held then. */
  resumeAt(step: number, elapsedMs = 0): void {
    this.#step = step;
    this.#elapsedMs = elapsedMs;
    this.#roundFrom(step + 1);
    this.parameters.refresh();
  }

  /** Rounding begins with the step whose share of the schedule says so, and stays. */
  #roundFrom(step: number): void {
    const { rounding, schedule } = this.config;
    if (rounding && progressAt(schedule, step, this.#elapsedMs) >= rounding.from) this.parameters.round();
  }

  get tokensPerStep(): number {
    return this.config.sequences * this.config.accumulation * this.#windows.length;
  }

  #indices(micro: number): number[] {
    const { sequences, accumulation } = this.config;
    return this.#order.indices((this.#step * accumulation + micro) * sequences, sequences);
  }

  /** One optimiser step on the windows that are due. */
  step(): StepRecord {
    const micro = Array.from({ length: this.config.accumulation }, (_, i) => i);
    return this.stepOn(micro.map((i) => () => batchOf(this.#windows, this.#indices(i))));
  }

  /** The sum over all replicas. */
  #total(numbers: readonly number[]): readonly number[] {
    if (!this.#group) return numbers;
    using _scope = this.device.scope();
    const t = this.device.fromHost("f64", [numbers.length], Float64Array.from(numbers));
    this.#group.sum(t);
    return [...new Float64Array(this.device.download(t).buffer)];
  }

  /** One optimiser step on given microbatches of one size; with replicas each takes every so-manieth of them. */
  stepOn(microbatches: readonly (() => HostBatch)[]): StepRecord {
    const begun = performance.now();
    const step = this.#step + 1;
    this.#roundFrom(step);
    this.parameters.clearGradients();
    let loss = 0;
    let extraLoss: number | undefined;
    let tokens = 0;
    const { rank, count } = this.#group ?? { rank: 0, count: 1 };
    for (const [i, make] of microbatches.entries()) {
      if (i % count !== rank) continue;
      const host = make();
      tokens += host.tokens.length;
      const part = this.accumulate(host, 1 / (host.tokens.length * microbatches.length));
      loss += part.loss;
      if (part.extra !== undefined) extraLoss = (extraLoss ?? 0) + part.extra;
      // replicas go on to their next meeting first: none of them may wait for one that has stopped
      if (!this.#group && !Number.isFinite(part.loss + (part.extra ?? 0)))
        throw this.#notFinite(step, "loss", part.loss);
    }
    if (this.#group) {
      this.#group.sum(this.parameters.gradients);
      const [allLoss, allExtra, allTokens] = this.#total([loss, extraLoss ?? 0, tokens]);
      loss = allLoss!;
      tokens = allTokens!;
      if (extraLoss !== undefined) extraLoss = allExtra;
      if (!Number.isFinite(loss + (extraLoss ?? 0))) throw this.#notFinite(step, "loss", loss);
    }
    using _scope = this.device.scope();
    const { norm, factor, groups } = this.optimizer.norm();
    if (!Number.isFinite(norm)) throw this.#notFinite(step, "gradients", norm);
    const learningRate = rateAt(this.config.schedule, this.config.learningRate, step, this.#elapsedMs);
    this.optimizer.step(step, learningRate, factor);
    this.average?.update(step);
    this.#step = step;
    this.device.backend.synchronize();
    // rates may depend on it, and must be those of all replicas
    const durationMs = this.#total([performance.now() - begun])[0]! / count;
    this.#elapsedMs += durationMs;
    return {
      step,
      loss,
      ...(extraLoss !== undefined && { extraLoss }),
      gradientNorm: norm,
      learningRate,
      tokens,
      durationMs,
      groups: this.#groupRecords(groups, learningRate, this.#number(factor)),
    };
  }

  #groupRecords(norms: readonly number[], learningRate: number, factor: number): GroupRecord[] {
    const parameterNorms = this.optimizer.parameterNorms();
    return this.optimizer.groups.map(({ id, optimizer, rateScale }, i) => ({
      id,
      optimizer: optimizer.kind,
      learningRate: learningRate * rateScale,
      weightDecay: optimizer.weight_decay,
      gradientNorm: norms[i]!,
      clippedGradientNorm: norms[i]! * factor,
      parameterNorm: parameterNorms[i]!,
    }));
  }

  /** Adds the gradients of one microbatch, its losses weighed by `scale`; its share of the step's loss. */
  accumulate(host: HostBatch, scale: number): { readonly loss: number; readonly extra?: number } {
    if (this.#recorded) return this.#recorded.run(host, scale, (batch) => this.#pass(batch, scale));
    using _scope = this.device.scope();
    const { mean, extra } = this.#pass(upload(this.device, host), scale);
    return { loss: this.#number(mean), ...(extra && { extra: this.#number(extra) }) };
  }

  /** Forward and backward; the caller's scope owns the losses. */
  #pass(batch: Batch, scale: number): PassLosses {
    using tape = new Tape(this.device, this.parameters.trained);
    const block = this.config.recompute ? tape.checkpoint.bind(tape) : runBlock;
    let summed = false;
    const loss: Scene["loss"] = (x, w, bias, targets, params = { softcap: 0 }) => {
      if (bias || x.dtype !== "bf16" || !this.device.backend.supports("head_loss"))
        return crossEntropy(x, w, bias, targets, params);
      summed = true;
      return headLoss(x, w, targets, { ...params, scale });
    };
    const { rows, extra } = this.model.losses({ ...this.#scene(block), loss }, batch);
    const mean = summed ? rows : sum(rows, scale);
    if (!extra) {
      tape.backward(mean);
      return { mean };
    }
    const share = sum(extra, 1 / this.config.accumulation);
    tape.backward(mix(mean, share));
    return { mean, extra: share };
  }

  /** The mean loss over windows that are not trained on, in nats. */
  evaluate(windows: Windows): number {
    let total = 0;
    const { sequences } = this.config;
    for (let from = 0; from < windows.starts.length; from += sequences) {
      const count = Math.min(sequences, windows.starts.length - from);
      const indices = Array.from({ length: count }, (_, i) => from + i);
      total += this.lossOf(batchOf(windows, indices));
    }
    return total / (windows.starts.length * windows.length);
  }

  /** The sum of the losses of a batch's targets, in nats; those below 0 do not count. Nothing is learnt. */
  lossOf(batch: HostBatch): number {
    using _scope = this.device.scope();
    return this.#number(sum(this.model.losses(this.#scene(runBlock), upload(this.device, batch)).rows));
  }

  #scene(block: Scene["block"]): Scene {
    return {
      weight: (name) => this.parameters.weight(name),
      loss: crossEntropy,
      compute: this.config.precision === "bf16" && this.device.backend.halfTensors ? "bf16" : "f32",
      constant: (dtype, shape, data) =>
        this.#recorded?.constant(dtype, shape, data) ?? this.device.fromHost(dtype, shape, data),
      block,
    };
  }

  #number(t: Tensor): number {
    return this.device.downloadF32(t)[0]!;
  }

  /** Names the first tensor that is to blame: a parameter, else a gradient, else what was seen. */
  #notFinite(step: number, seen: string, value: number): NotFiniteError {
    for (const [flat, kind] of [
      [this.parameters.values, "parameter"],
      [this.parameters.gradients, "gradient"],
    ] as const) {
      for (const place of this.parameters.places) {
        const bad = this.device
          .downloadF32(part(flat, place, [place.count]))
          .find((v) => !Number.isFinite(v));
        if (bad !== undefined) return new NotFiniteError(step, `${kind} ${place.spec.name}`, String(bad));
      }
    }
    return new NotFiniteError(step, seen, String(value));
  }

  [Symbol.dispose](): void {
    this.average?.[Symbol.dispose]();
    this.#recorded?.[Symbol.dispose]();
    this.optimizer[Symbol.dispose]();
    this.parameters[Symbol.dispose]();
  }
}

/** Blocks are kept, not run again. */
export const runBlock: Scene["block"] = (body, ...inputs) => body(...inputs);

/** A batch on the device, owned by the caller's scope. */
export function upload(device: Device, host: HostBatch): Batch {
  const rows = host.sequences * host.length;
  const [tokens, targets, positions] = [host.tokens, host.targets, host.positions].map((data) =>
    device.fromHost("i32", [rows], data),
  ) as [Tensor, Tensor, Tensor];
  const first = host.first && { first: device.fromHost("i32", [rows], host.first) };
  return { sequences: host.sequences, length: host.length, tokens, targets, positions, ...first };
}

/** Throws for a config that makes no steps on these windows. */
export function checkConfig(model: TrainedModel, windows: Windows, config: TrainerConfig): void {
  for (const name of ["sequences", "accumulation"] as const) {
    const value = config[name];
    if (!(Number.isInteger(value) && value >= 1))
      throw unexpected("invalid_argument", "train", `${name} of at least 1`, value);
  }
  if (windows.length > model.contextLength) {
    const limit = `sequences of at most ${model.contextLength} tokens`;
    throw unexpected("invalid_request", "train", limit, windows.length);
  }
  const largest = windows.tokens.reduce((most, id) => Math.max(most, id), 0);
  const least = windows.tokens.reduce((low, id) => Math.min(low, id), 0);
  if (largest >= model.vocabularySize || least < 0) {
    throw unexpected(
      "invalid_request",
      "train",
      `tokens of a vocabulary of ${model.vocabularySize}`,
      largest,
      {
        fix: "The data were made with another tokenizer",
      },
    );
  }
  if (!(config.learningRate > 0 && Number.isFinite(config.learningRate))) {
    throw unexpected("invalid_argument", "train", "a learning rate above 0", config.learningRate);
  }
  checkSchedule(config.schedule);
}
