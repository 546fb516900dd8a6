/**
 * One stage of a model whose parts stand on several hosts: it runs its own parts of every step, hands h on, and learns from
 * the gradient that comes back. Losses are those of a trainer that has the whole model, bit for bit on the same backend.
 */
import { unexpected } from "../core/error.ts";
import { batchOf, type Windows } from "../data/batches.ts";
import type { Device } from "../runtime/device.ts";
import { Tape } from "../runtime/tape.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { crossEntropy, sum } from "../runtime/training.ts";
import type { ModelPart, Scene, TrainedModel } from "./model.ts";
import { Optimizer } from "./optimizer/optimizer.ts";
import { Parameters } from "./parameters.ts";
import { rateAt } from "./schedule.ts";
import { checkConfig, NotFiniteError, runBlock, type TrainerConfig, upload } from "./trainer.ts";
import { WindowOrder } from "./window_order.ts";

/** Which stage of how many, from 0. */
export type StagePlace = { readonly index: number; readonly count: number };

/** What comes back for an activation: its gradient, f32 of the same shape, and the loss that the last stage saw. */
export type Returned = {
  readonly gradient: Float32Array;
  readonly loss: number;
  /** Where the norm is limited: sums of squares of the gradients of the stages that it comes back from, the nearest first. */
  readonly squares?: readonly number[];
};

/** How a stage is tied to its neighbours; each call waits until it has what it is for. All arrays are [rows, width] f32. */
export type StageLinks = {
  /** The activation of a step from upstream; stages but the first. */
  input(step: number): Float32Array;
  /** Hands the activation of a step downstream and waits for its gradient; stages but the last. */
  exchange(step: number, activation: Float32Array): Returned;
  /** Hands the gradient of the input back upstream; stages but the first. */
  giveBack(step: number, back: Returned): void;
  /**
   * Where the norm is limited: the sums of squares of all stages, in their order. `known`: those of this stage and the later
   * ones, which at the first stage are all, so that it hands them on; the others wait for them.
   */
  agree(step: number, known: readonly number[]): readonly number[];
};

/** What a step of a stage did. */
export type StageStep = {
  readonly step: number;
  /** Mean over the step's tokens, nats, as the last stage saw it. */
  readonly loss: number;
  /** Where it is limited of all stages' parameters, else of this one's. */
  readonly gradientNorm: number;
  readonly learningRate: number;
  /** Indices of the windows that were read. */
  readonly windows: readonly number[];
  readonly durationMs: number;
};

/** The gradients of a step are there, and nothing is changed yet. */
export type Learned = Pick<StageStep, "step" | "loss" | "windows"> & {
  /** Of this stage and the later ones; empty where no norm is limited. */
  readonly squares: readonly number[];
  /** As performance.now() has it. */
  readonly begun: number;
};

/** The parts of a model that stand on one of `count` stages: layers are dealt evenly, in order. */
export function partsOfStage(model: TrainedModel, { index, count }: StagePlace): readonly ModelPart[] {
  const list = model.parts?.list;
  if (!list)
    throw unexpected(
      "unsupported",
      model.id,
      "a model that comes in parts",
      "one whose parts share weights",
      {
        fix: "Give the head weights of its own",
      },
    );
  const layers = list.length - 2;
  if (layers < count)
    throw unexpected("unsupported", model.id, `at least ${count} layers for ${count} stages`, layers);
  const cut = (stage: number): number => Math.floor((stage * layers) / count);
  const from = index === 0 ? 0 : 1 + cut(index);
  const to = index === count - 1 ? list.length : 1 + cut(index + 1);
  return list.slice(from, to);
}

export class StageTrainer implements Disposable {
  readonly device: Device;
  readonly model: TrainedModel;
  readonly config: TrainerConfig;
  readonly place: StagePlace;
  readonly parameters: Parameters;
  readonly optimizer: Optimizer;
  /** The stages of one replica have no average of their own. */
  readonly average = undefined;
  readonly elapsedMs = undefined;
  readonly #parts: readonly ModelPart[];
  readonly #windows: Windows;
  readonly #order: WindowOrder;
  #step = 0;

  /** Parameters begin at what their names and the seed give, wherever they stand; `initial` none: at zeros, for their sizes alone. */
  constructor(
    device: Device,
    model: TrainedModel,
    windows: Windows,
    config: TrainerConfig,
    place: StagePlace,
    initial: "seed" | "none" = "seed",
  ) {
    checkConfig(model, windows, config);
    checkStaged(model, config);
    this.#parts = partsOfStage(model, place);
    const parameters = this.#parts.flatMap((p) => p.parameters);
    this.device = device;
    this.model = { ...model, parameters };
    this.config = config;
    this.place = place;
    this.#windows = windows;
    this.#order = new WindowOrder(config.seed, windows.starts.length);
    this.parameters = new Parameters(device, this.model, config.precision);
    this.optimizer = new Optimizer(this.parameters, config.groups, config.clip);
    if (initial === "seed") this.parameters.initialise(config.seed);
  }

  get completedSteps(): number {
    return this.#step;
  }

  /** Takes up after `step`; the buffers must hold what they held then. */
  resumeAt(step: number): void {
    this.#step = step;
    this.parameters.refresh();
  }

  /** Rows and width of what passes between stages. */
  get shape(): readonly [number, number] {
    return [this.config.sequences * this.#windows.length, this.model.parts?.width ?? 0];
  }

  get #isFirst(): boolean {
    return this.place.index === 0;
  }

  /** One step on the windows that are due. */
  step(links: StageLinks): StageStep {
    const learned = this.learn(links);
    return this.update(learned, this.#limited ? links.agree(learned.step, learned.squares) : []);
  }

  get #limited(): boolean {
    return this.config.clip !== Number.POSITIVE_INFINITY;
  }

  /** The first part of a step: forward, across, and back; the gradients are there afterwards, which `update` goes by. */
  learn(links: StageLinks): Learned {
    const begun = performance.now();
    const step = this.#step + 1;
    const windows = this.#order.indices(this.#step * this.config.sequences, this.config.sequences);
    this.parameters.clearGradients();
    using _scope = this.device.scope();
    const batch = upload(this.device, batchOf(this.#windows, windows));
    using tape = new Tape(this.device, this.parameters.trained);
    const scene: Scene = {
      weight: (name) => this.parameters.weight(name),
      loss: crossEntropy,
      compute: this.config.precision === "bf16" && this.device.backend.halfTensors ? "bf16" : "f32",
      constant: (dtype, shape, data) => this.device.fromHost(dtype, shape, data),
      block: this.config.recompute ? tape.checkpoint.bind(tape) : runBlock,
    };
    const given = this.#isFirst ? undefined : this.#tensor(links.input(step));
    if (given) tape.watch(given);
    let h = given;
    for (const part of this.#parts) h = part.run(scene, batch, h);
    const { loss, squares: later = [] } = this.#backward(tape, step, h!, links);
    const squares = this.#limited ? [this.optimizer.squares(), ...later] : [];
    if (given) {
      const gradient = tape.gradientOf(given);
      if (!gradient) throw unexpected("internal", "stage", "a gradient of the input", "none");
      const back = { gradient: this.device.downloadF32(gradient), loss };
      links.giveBack(step, this.#limited ? { ...back, squares } : back);
    }
    return { step, loss, squares, windows, begun };
  }

  /** The second part: what was learned changes the parameters. `all`: sums of squares of all stages, where the norm is limited. */
  update({ step, loss, windows, begun }: Learned, all: readonly number[]): StageStep {
    using _scope = this.device.scope();
    if (!Number.isFinite(loss)) throw new NotFiniteError(step, "loss", String(loss));
    const norm = this.#limited ? this.optimizer.limitTo(all) : this.#norm();
    if (!Number.isFinite(norm)) throw new NotFiniteError(step, "gradients", String(norm));
    const learningRate = rateAt(this.config.schedule, this.config.learningRate, step);
    this.optimizer.setRates(step, learningRate);
    this.optimizer.update();
    this.#step = step;
    this.device.backend.synchronize();
    return { step, loss, gradientNorm: norm, learningRate, windows, durationMs: performance.now() - begun };
  }

  #norm(): number {
    this.optimizer.limit();
    return this.optimizer.norms().norm;
  }

  /** The step's loss, and the sums of squares of the later stages. */
  #backward(tape: Tape, step: number, h: Tensor, links: StageLinks): Omit<Returned, "gradient"> {
    if (this.place.index === this.place.count - 1) {
      const mean = sum(h, 1 / h.shape[0]!);
      tape.backward(mean);
      return { loss: this.device.downloadF32(mean)[0]! };
    }
    const returned = links.exchange(step, this.device.downloadF32(h));
    tape.backward(h, this.#tensor(returned.gradient));
    return returned;
  }

  #tensor(data: Float32Array): Tensor {
    const [rows, width] = this.shape;
    if (data.length !== rows * width)
      throw unexpected("invalid_request", "stage", `${rows * width} numbers`, data.length);
    return this.device.fromHost("f32", [rows, width], data);
  }

  [Symbol.dispose](): void {
    this.optimizer[Symbol.dispose]();
    this.parameters[Symbol.dispose]();
  }
}

/** What would need all stages at once is refused. */
function checkStaged(model: TrainedModel, { accumulation, average, schedule }: TrainerConfig): void {
  const refuse = (expected: string, got: unknown): never => {
    throw unexpected("unsupported", `stages of ${model.id}`, expected, got);
  };
  if (accumulation !== 1) refuse("one microbatch a step", accumulation);
  if (average) refuse("no average of the weights", "one");
  if (schedule.kind === "warm_down_by_time") refuse("rates by the step alone", schedule.kind);
}
