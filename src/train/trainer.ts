import { PsionicError, unexpected } from "../core/error.ts";
import { batchOf, type HostBatch, type Windows } from "../data/batches.ts";
import type { RoundingFormat } from "../ir/ops/block_round.ts";
import type { Device } from "../runtime/device.ts";
import { Tape } from "../runtime/tape.ts";
import { reshape, rowsOf, type Tensor } from "../runtime/tensor.ts";
import { crossEntropy, fill, headLoss, mix, sum } from "../runtime/training.ts";
import { GradientBuckets, type Replicas } from "./gradient_buckets.ts";
import type { Batch, ParameterSpec, Scene, TrainedModel } from "./model.ts";
import { type AverageConfig, WeightAverage } from "./optimizer/average.ts";
import type { ParameterGroup } from "./optimizer/config.ts";
import { Optimizer, type StepNorms } from "./optimizer/optimizer.ts";
import { Parameters, part } from "./parameters.ts";
import { Recordings, sizeOf } from "./recordings.ts";
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

/** What a microbatch gives: its share of the mean loss [1], and of what is added to it. */
type PassLosses = { readonly mean: Tensor; readonly extra?: Tensor };

/** The losses of a microbatch as the host reads them. */
type HostLosses = { readonly loss: number; readonly extra?: number };

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
  readonly #recorded: Recordings | undefined;
  readonly #group: Replicas | undefined;
  readonly #buckets: GradientBuckets | undefined;
  /** Two of each microbatch of a step: its share of the loss, and of what is added to it. */
  readonly #losses: Tensor;
  /** Whether the model's losses have a second part. */
  #hasExtra = false;
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
    this.#recorded = captures && asynchronous ? new Recordings(device) : undefined;
    this.#buckets = group && new GradientBuckets(this.parameters, group);
    this.#losses = device.empty("f32", [config.accumulation, 2]);
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

  /** The mean over all replicas of what each has measured. */
  #mean(value: number): number {
    if (!this.#group) return value;
    using _scope = this.device.scope();
    const t = this.device.fromHost("f64", [1], Float64Array.of(value));
    this.#group.sum(t);
    return new Float64Array(this.device.download(t).buffer)[0]! / this.#group.count;
  }

  /** One optimiser step on given microbatches of one size; with replicas each takes every so-manieth of them. */
  stepOn(microbatches: readonly (() => HostBatch)[]): StepRecord {
    const begun = performance.now();
    const step = this.#step + 1;
    const { accumulation, schedule } = this.config;
    if (microbatches.length !== accumulation)
      throw unexpected("invalid_argument", "train", `${accumulation} microbatches`, microbatches.length);
    this.#roundFrom(step);
    const learningRate = rateAt(schedule, this.config.learningRate, step, this.#elapsedMs);
    this.optimizer.setRates(step, learningRate);
    const { rank, count } = this.#group ?? { rank: 0, count: 1 };
    const own = microbatches.flatMap((make, i) => (i % count === rank ? [[i, make] as const] : []));
    const recorded = this.#recorded;
    let tokens = 0;
    if (recorded) {
      const sizes: string[] = [];
      // a loader's batch is good until the next one is asked for
      const placed = own.map(([i, make]) => {
        const host = make();
        sizes.push(sizeOf(host));
        tokens = host.tokens.length;
        const batch = recorded.place(i, host);
        return [i, () => batch] as const;
      });
      recorded.run(`step ${sizes.join()} ${this.parameters.rounds}`, () => this.#wholeStep(placed));
    } else {
      const uploaded = (make: () => HostBatch) => (): Batch => {
        const host = make();
        tokens = host.tokens.length;
        return upload(this.device, host);
      };
      this.#wholeStep(own.map(([i, make]) => [i, uploaded(make)] as const));
    }
    const norms = this.optimizer.norms();
    const { loss, extra } = this.#readLosses(accumulation);
    if (!Number.isFinite(loss + (extra ?? 0))) throw this.#notFinite(step, "loss", loss);
    if (!Number.isFinite(norms.norm)) throw this.#notFinite(step, "gradients", norms.norm);
    this.average?.update(step);
    this.#step = step;
    this.device.backend.synchronize();
    // rates may depend on it, and must be those of all replicas
    const durationMs = this.#mean(performance.now() - begun);
    this.#elapsedMs += durationMs;
    return {
      step,
      loss,
      ...(extra !== undefined && { extraLoss: extra }),
      gradientNorm: norms.norm,
      learningRate,
      tokens: accumulation * tokens,
      durationMs,
      groups: this.#groupRecords(norms, learningRate),
    };
  }

  /**
   * Everything a step does on the device, which waits for nothing from the host: where a loss or the norm is not finite, the
   * update changes nothing.
   */
  #wholeStep(microbatches: readonly (readonly [number, () => Batch])[]): void {
    this.parameters.clearGradients();
    if (this.#group) fill(this.#losses, 0);
    for (const [at, [i, batchHere]] of microbatches.entries()) {
      using _scope = this.device.scope();
      const batch = batchHere();
      const scale = 1 / (batch.sequences * batch.length * this.config.accumulation);
      const last = at === microbatches.length - 1 ? this.#buckets : undefined;
      last?.begin();
      this.#keepLosses(i, this.#pass(batch, scale, last?.added));
      if (last) {
        this.#group!.start(this.#losses);
        last.end();
      }
    }
    this.optimizer.limit(this.#losses);
    this.optimizer.update();
    this.optimizer.measure();
  }

  #keepLosses(i: number, { mean, extra }: PassLosses): void {
    this.#hasExtra = extra !== undefined;
    const place = reshape(rowsOf(this.#losses, i, 1), [2]);
    for (const [k, t] of [mean, extra].entries())
      if (t) mix(t, undefined, 1, 0, undefined, undefined, rowsOf(place, k, 1));
  }

  /** The sums of the first `count` microbatches' losses. */
  #readLosses(count: number): HostLosses {
    const all = this.device.downloadF32(this.#losses).subarray(0, 2 * count);
    const sumOf = (k: number): number => all.reduce((sum, v, i) => (i % 2 === k ? sum + v : sum), 0);
    return { loss: sumOf(0), ...(this.#hasExtra && { extra: sumOf(1) }) };
  }

  #groupRecords({ groups, parameterGroups, factor }: StepNorms, learningRate: number): GroupRecord[] {
    return this.optimizer.groups.map(({ id, optimizer, rateScale }, i) => ({
      id,
      optimizer: optimizer.kind,
      learningRate: learningRate * rateScale,
      weightDecay: optimizer.weight_decay,
      gradientNorm: groups[i]!,
      clippedGradientNorm: groups[i]! * factor,
      parameterNorm: parameterGroups[i]!,
    }));
  }

  /** Adds the gradients of one microbatch, its losses weighed by `scale`; its share of the step's loss. */
  accumulate(host: HostBatch, scale: number): HostLosses {
    const pass = (batch: Batch): void => {
      using _scope = this.device.scope();
      this.#keepLosses(0, this.#pass(batch, scale));
    };
    using _scope = this.device.scope();
    const recorded = this.#recorded;
    if (!recorded) pass(upload(this.device, host));
    else {
      const batch = recorded.place(0, host);
      recorded.run(`pass ${sizeOf(host)} ${scale}`, () => pass(batch));
    }
    return this.#readLosses(1);
  }

  /** Forward and backward; the caller's scope owns the losses. `added` is told of gradients, as a tape tells it. */
  #pass(batch: Batch, scale: number, added?: (address: number) => void): PassLosses {
    using tape = new Tape(this.device, this.parameters.trained, added);
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
    this.device.free(this.#losses);
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
