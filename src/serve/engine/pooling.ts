import type { Classifier } from "../../models/model.ts";
import type { Pooling } from "../../models/pooling.ts";

/** How an engine makes vectors. */
export type PoolingPlan = {
  readonly pooling: Pooling;
  /** Width of a hidden state. */
  readonly width: number;
  /** With `rank` only. */
  readonly classifier?: Classifier;
};

/**
 * Takes in the hidden states of a text part by part and gives one vector. Sums go position by position in f64, so that
 * the vector does not depend on where the text was cut into steps.
 */
export class Pool {
  private readonly plan: PoolingPlan;
  private readonly sums: Float64Array;
  private count = 0;

  constructor(plan: PoolingPlan) {
    this.plan = plan;
    this.sums = new Float64Array(plan.width);
  }

  get width(): number {
    return this.plan.width;
  }

  /** Of a part of `count` tokens from position `from` of a text of `length`: the places wanted, `[first, end)`. */
  wanted(from: number, count: number, length: number): readonly [number, number] {
    const { pooling } = this.plan;
    if (pooling === "mean") return [0, count];
    if (pooling === "first") return from === 0 ? [0, 1] : [0, 0];
    return from + count === length ? [count - 1, count] : [count, count];
  }

  /** Forgets what came before: the text is read again. */
  reset(): void {
    this.sums.fill(0);
    this.count = 0;
  }

  /** Adds hidden states f32 [rows, D]. */
  add(states: Float32Array): void {
    const { width } = this.plan;
    for (let at = 0; at < states.length; at += width) {
      for (let i = 0; i < width; i++) this.sums[i]! += states[at + i]!;
      this.count += 1;
    }
  }

  /** The vector, of length 1; or, of a classifier, the probability of each label. */
  result(): Float32Array {
    const { classifier } = this.plan;
    const mean = this.sums.map((sum) => sum / Math.max(1, this.count));
    if (classifier) return labelProbabilities(mean, classifier);
    const norm = Math.sqrt(mean.reduce((sum, x) => sum + x * x, 0));
    return Float32Array.from(mean, (x) => (norm > 0 ? x / norm : 0));
  }
}

/** softmax(W x + b); of one label the logistic function of its score. */
function labelProbabilities(x: Float64Array, { weights, bias }: Classifier): Float32Array {
  const scores = Array.from(bias, (b, label) =>
    x.reduce((sum, value, i) => sum + value * weights[label * x.length + i]!, b),
  );
  const [only] = scores;
  if (only !== undefined && scores.length === 1) return Float32Array.of(1 / (1 + Math.exp(-only)));
  const most = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - most));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return Float32Array.from(powers, (power) => power / total);
}
