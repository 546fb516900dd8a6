import { unexpected } from "../../core/error.ts";
import { adam, momentum, muonUpdate, sgd } from "../../ir/ops/adam.ts";
import { clipFactor, sumSquares } from "../../ir/ops/sum.ts";
import { apply } from "../../runtime/apply.ts";
import type { Device } from "../../runtime/device.ts";
import { makeTensor, rowsOf, type Tensor } from "../../runtime/tensor.ts";
import { type ParameterPlace, type Parameters, part } from "../parameters.ts";
import { checkOptimizer, momentumAt, type OptimizerConfig, type ParameterGroup } from "./config.ts";
import { orthogonalised } from "./muon.ts";

/** Neighbours in the flat buffers that one call updates; for Muon, matrices of one shape. */
type Run = {
  readonly group: number;
  readonly offset: number;
  readonly count: number;
  readonly matrices?: readonly [batch: number, rows: number, columns: number];
};

type Group = ParameterGroup & { readonly rates: Tensor };

/** What a step found out: norms of the gradients before clipping, the factor that clipped them, and norms by group. */
export type StepNorms = {
  readonly norm: number;
  /** Not a number where nothing was updated. */
  readonly factor: number;
  readonly groups: readonly number[];
  readonly parameterGroups: readonly number[];
};

/**
 * The optimisers of a model's parameters over its flat buffers: `first` holds momenta or first moments, `second` second
 * moments where some group has them. A step clips by the global norm, then updates each run by one call. What changes
 * from step to step lies on the device, so that `limit`, `update` and `measure` can be recorded.
 */
export class Optimizer implements Disposable {
  readonly #device: Device;
  readonly #parameters: Parameters;
  readonly #groups: readonly Group[];
  readonly #runs: readonly Run[];
  readonly #clip: number;
  readonly #rates: Tensor;
  /** f64: the norm, a place for the factor, squares of each run's gradients, then of its parameters. */
  readonly #numbers: Tensor;
  readonly first: Tensor;
  readonly second: Tensor | undefined;
  readonly groupOf: ReadonlyMap<string, string>;

  /** `clip`: limit of the global norm, Infinity for none. */
  constructor(parameters: Parameters, groups: readonly ParameterGroup[], clip: number) {
    const { device } = parameters;
    if (!(clip > 0)) throw unexpected("invalid_argument", "optimizer", "a limit of the norm above 0", clip);
    for (const { id, optimizer } of groups) checkOptimizer(id, optimizer);
    const index = parameters.places.map(({ spec }) => {
      const found = groups.findIndex((g) => g.has(spec));
      if (found < 0)
        throw unexpected("invalid_argument", "optimizer", "a group for every parameter", spec.name);
      return found;
    });
    this.#device = device;
    this.#parameters = parameters;
    this.#clip = clip;
    this.#runs = runsOf(parameters.places, index, groups);
    this.groupOf = new Map(parameters.places.map(({ spec }, i) => [spec.name, groups[index[i]!]!.id]));
    this.#rates = device.empty("f64", [ratesPerGroup * groups.length]);
    this.#groups = groups.map((g, i) => ({
      ...g,
      rates: numbersAt(this.#rates, ratesPerGroup * i, rateCount(g.optimizer)),
    }));
    this.#numbers = device.empty("f64", [2 + 2 * this.#runs.length]);
    this.first = device.empty("f32", [parameters.elements]);
    const moments = groups.some((g) => isAdam(g.optimizer));
    this.second = moments ? device.empty("f32", [parameters.elements]) : undefined;
  }

  get #norm(): Tensor {
    return numbersAt(this.#numbers, 0, 1);
  }

  /** What gradients are multiplied by. */
  get #factor(): Tensor {
    const { device, kind, address } = this.#numbers;
    return makeTensor(device, kind, address + 8, { dtype: "f32", shape: [1] });
  }

  #squaresOf(which: "gradients" | "values"): Tensor {
    const { length } = this.#runs;
    return numbersAt(this.#numbers, 2 + (which === "values" ? length : 0), length);
  }

  /** Rates of step `step`, which counts from 1, for the updates from now on. */
  setRates(step: number, rate: number): void {
    const rates = new Float64Array(ratesPerGroup * this.#groups.length);
    for (const [i, { optimizer, rateScale }] of this.#groups.entries())
      rates.set(ratesOf(optimizer, rate * rateScale, step), ratesPerGroup * i);
    this.#device.upload(this.#rates, rates);
  }

  /** The global norm of the gradients and the factor that clips them; one that updates nothing where the norm or one of `losses` is not finite. */
  limit(losses?: Tensor): void {
    this.#measure("gradients");
    apply(clipFactor, [this.#squaresOf("gradients"), losses], { limit: this.#clip }, [
      this.#factor,
      this.#norm,
    ]);
  }

  /** The sum of squares of the gradients, f64: these parameters' share of a norm that others have shares in. */
  squares(): number {
    this.#measure("gradients");
    return this.#doubles(this.#squaresOf("gradients")).reduce((sum, value) => sum + value, 0);
  }

  /** The norm of shares that are added up in their order, by which the next update's gradients are clipped. */
  limitTo(shares: readonly number[]): number {
    const norm = Math.sqrt(shares.reduce((sum, value) => sum + value, 0));
    this.#device.upload(this.#factor, Float32Array.of(norm > this.#clip ? this.#clip / norm : 1));
    return norm;
  }

  /** Measures the parameters, for `norms`. */
  measure(): void {
    this.#measure("values");
  }

  /** Puts the sum of squares of each run of a flat buffer where `norms` finds it. */
  #measure(which: "gradients" | "values"): void {
    const squares = this.#squaresOf(which);
    for (const [i, run] of this.#runs.entries()) {
      apply(sumSquares, [part(this.#parameters[which], run, [run.count])], {}, [rowsOf(squares, i, 1)]);
    }
  }

  /** What the last calls of `limit` and `measure` found. */
  norms(): StepNorms {
    const bytes = this.#device.download(this.#numbers);
    const numbers = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8);
    const [count, factor] = [
      this.#runs.length,
      new DataView(bytes.buffer, bytes.byteOffset).getFloat32(8, true),
    ];
    return {
      norm: numbers[0]!,
      factor,
      groups: this.#byGroup(numbers.subarray(2, 2 + count)),
      parameterGroups: this.#byGroup(numbers.subarray(2 + count)),
    };
  }

  #byGroup(squares: Float64Array): readonly number[] {
    const sums = this.#groups.map(() => 0);
    for (const [i, value] of squares.entries()) sums[this.#runs[i]!.group]! += value;
    return sums.map(Math.sqrt);
  }

  #doubles(t: Tensor): Float64Array {
    return new Float64Array(this.#device.download(t).buffer);
  }

  get groups(): readonly ParameterGroup[] {
    return this.#groups;
  }

  /** Updates all parameters by the gradients, limited, with the rates that were set. */
  update(): void {
    for (const run of this.#runs) {
      using _scope = this.#device.scope();
      this.#update(run);
    }
    this.#parameters.refresh();
  }

  #update(run: Run): void {
    const { optimizer: o, rates } = this.#groups[run.group]!;
    const factor = this.#factor;
    const shape = run.matrices ?? [run.count];
    const [p, g, first] = [this.#parameters.values, this.#parameters.gradients, this.first].map((flat) =>
      part(flat, run, shape),
    ) as [Tensor, Tensor, Tensor];
    if (isAdam(o)) {
      const { beta1, beta2, epsilon: eps, weight_decay: decay, kind } = o;
      const second = part(this.second!, run, shape);
      apply(adam, [p, first, second, g, factor, rates], {
        beta1,
        beta2,
        eps,
        decay,
        decoupled: kind === "adam_w",
      });
    } else if (o.kind === "sgd") {
      const buffer = o.momentum > 0 ? first : undefined;
      apply(sgd, [p, buffer, g, factor, rates], { momentum: o.momentum, decay: o.weight_decay });
    } else {
      const [, rows, columns] = run.matrices!;
      const [direction] = apply(momentum, [first, g, factor, rates], { nesterov: o.nesterov });
      const y = orthogonalised(direction!, o.newton_schulz_steps, o.precision);
      apply(muonUpdate, [p, y, factor, rates], {
        scale: Math.sqrt(Math.max(1, rows / columns)),
        decay: o.weight_decay,
      });
    }
  }

  [Symbol.dispose](): void {
    for (const t of [this.#rates, this.#numbers, this.first, this.second]) if (t) this.#device.free(t);
  }
}

/** Room for the rates of any optimiser. */
const ratesPerGroup = 3;

function ratesOf(o: OptimizerConfig, rate: number, step: number): readonly number[] {
  if (isAdam(o)) return [rate, 1 / (1 - o.beta1 ** step), 1 / (1 - o.beta2 ** step)];
  return o.kind === "muon" ? [rate, momentumAt(o, step)] : [rate];
}

const rateCount = (o: OptimizerConfig): number => ratesOf(o, 0, 1).length;

/** `count` numbers of an f64 tensor. */
const numbersAt = ({ device, kind, address }: Tensor, from: number, count: number): Tensor =>
  makeTensor(device, kind, address + 8 * from, { dtype: "f64", shape: [count] });

type Adam = Extract<OptimizerConfig, { beta1: number }>;
const isAdam = (o: OptimizerConfig): o is Adam => o.kind === "adam" || o.kind === "adam_w";

function runsOf(
  places: readonly ParameterPlace[],
  index: readonly number[],
  groups: readonly ParameterGroup[],
): Run[] {
  const runs: Run[] = [];
  for (const [i, { spec, offset, count }] of places.entries()) {
    const group = index[i]!;
    const muon = groups[group]!.optimizer.kind === "muon";
    if (muon && spec.shape.length !== 2) {
      throw unexpected("invalid_argument", "optimizer", "matrices for muon", `${spec.name} [${spec.shape}]`);
    }
    const last = runs.at(-1);
    const [rows, columns] = spec.shape as [number, number];
    const sameShape = last?.matrices?.[1] === rows && last?.matrices?.[2] === columns;
    // matrices of one shape are a batch only where no gap lies between them
    const follows = last?.group === group && (!muon || (sameShape && offset === last.offset + last.count));
    if (!last || !follows) {
      runs.push({ group, offset, count, ...(muon && { matrices: [1, rows, columns] as const }) });
      continue;
    }
    const batch = (last.matrices?.[0] ?? 0) + 1;
    runs[runs.length - 1] = {
      ...last,
      count: offset + count - last.offset,
      ...(muon && { matrices: [batch, rows, columns] as const }),
    };
  }
  return runs;
}
