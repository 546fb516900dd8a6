import { unexpected } from "../../core/error.ts";
import { adam, momentum, muonUpdate, sgd } from "../../ir/ops/adam.ts";
import { clipFactor, sumSquares } from "../../ir/ops/sum.ts";
import { apply } from "../../runtime/apply.ts";
import type { Device } from "../../runtime/device.ts";
import { rowsOf, type Tensor } from "../../runtime/tensor.ts";
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

/**
 * The optimisers of a model's parameters over its flat buffers: `first` holds momenta or first moments, `second` second
 * moments where some group has them. A step clips by the global norm, then updates each run by one call.
 */
export class Optimizer implements Disposable {
  readonly #device: Device;
  readonly #parameters: Parameters;
  readonly #groups: readonly Group[];
  readonly #runs: readonly Run[];
  readonly #clip: number;
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
    this.#groups = groups.map((g) => ({ ...g, rates: device.empty("f64", [isAdam(g.optimizer) ? 3 : 1]) }));
    this.first = device.empty("f32", [parameters.elements]);
    const moments = groups.some((g) => isAdam(g.optimizer));
    this.second = moments ? device.empty("f32", [parameters.elements]) : undefined;
  }

  /** The global norm of the gradients, that of each group, and the factor that clips them, which the caller's scope owns. */
  norm(): { readonly norm: number; readonly factor: Tensor; readonly groups: readonly number[] } {
    const squares = this.#squares(this.#parameters.gradients);
    const [factor, norm] = apply(clipFactor, [squares], { limit: this.#clip });
    return { norm: this.#doubles(norm!)[0]!, factor: factor!, groups: this.#byGroup(squares) };
  }

  /** The sum of squares of the gradients, f64: these parameters' share of a norm that others have shares in. */
  squares(): number {
    using _scope = this.#device.scope();
    return this.#doubles(this.#squares(this.#parameters.gradients)).reduce((sum, value) => sum + value, 0);
  }

  /** Norm and factor as `norm` has them, of shares that are added up in their order. */
  limited(shares: readonly number[]): { readonly norm: number; readonly factor: Tensor } {
    const norm = Math.sqrt(shares.reduce((sum, value) => sum + value, 0));
    const factor = norm > this.#clip ? this.#clip / norm : 1;
    return { norm, factor: this.#device.fromHost("f32", [1], Float32Array.of(factor)) };
  }

  /** Norms of the parameters of each group. */
  parameterNorms(): readonly number[] {
    using _scope = this.#device.scope();
    return this.#byGroup(this.#squares(this.#parameters.values));
  }

  /** f64 [runs]: the sum of squares of each run of a flat buffer. */
  #squares(flat: Tensor): Tensor {
    const squares = this.#device.temporary({ dtype: "f64", shape: [this.#runs.length] });
    for (const [i, run] of this.#runs.entries()) {
      apply(sumSquares, [part(flat, run, [run.count])], {}, [rowsOf(squares, i, 1)]);
    }
    return squares;
  }

  #byGroup(squares: Tensor): readonly number[] {
    const sums = this.#groups.map(() => 0);
    for (const [i, value] of this.#doubles(squares).entries()) sums[this.#runs[i]!.group]! += value;
    return sums.map(Math.sqrt);
  }

  #doubles(t: Tensor): Float64Array {
    return new Float64Array(this.#device.download(t).buffer);
  }

  get groups(): readonly ParameterGroup[] {
    return this.#groups;
  }

  /** Updates all parameters for step `step`, which counts from 1. */
  step(step: number, rate: number, factor: Tensor): void {
    for (const { optimizer: o, rates, rateScale } of this.#groups) {
      const lr = rate * rateScale;
      const numbers = isAdam(o) ? [lr, 1 / (1 - o.beta1 ** step), 1 / (1 - o.beta2 ** step)] : [lr];
      this.#device.upload(rates, Float64Array.from(numbers));
    }
    for (const run of this.#runs) {
      using _scope = this.#device.scope();
      this.#update(run, step, factor);
    }
    this.#parameters.refresh();
  }

  #update(run: Run, step: number, factor: Tensor): void {
    const { optimizer: o, rates } = this.#groups[run.group]!;
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
      const [direction] = apply(momentum, [first, g, factor], {
        momentum: momentumAt(o, step),
        nesterov: o.nesterov,
      });
      const y = orthogonalised(direction!, o.newton_schulz_steps, o.precision);
      apply(muonUpdate, [p, y, rates], {
        scale: Math.sqrt(Math.max(1, rows / columns)),
        decay: o.weight_decay,
      });
    }
  }

  [Symbol.dispose](): void {
    for (const { rates } of this.#groups) this.#device.free(rates);
    this.#device.free(this.first);
    if (this.second) this.#device.free(this.second);
  }
}

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
