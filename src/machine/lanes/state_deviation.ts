/** How far a state lies from the one that came out here. */
import type { ComparedState } from "../window_replayer.ts";
import { isWeight, type StateValues } from "./state_object.ts";

type Deviation = Pick<ComparedState, "weightDeviation" | "moments">;

export const sameState: Deviation = { weightDeviation: 0, moments: { first: 0, second: 0, direction: 0 } };

const far = Number.POSITIVE_INFINITY;
const apart: Deviation = { weightDeviation: far, moments: { first: far, second: far, direction: far } };

/** Added to roots of second moments, as the optimiser does. */
const epsilon = 1e-8;

/** Tensors whose numbers are smaller than this share of all tensors' root mean square are held against that instead. */
const faint = 0.01;

/** `before`: the state that the segment began with; all of one model, or they are apart. */
export function stateDeviation(before: StateValues, claimed: StateValues, observed: StateValues): Deviation {
  const names = [...observed.keys()];
  const alike = (other: StateValues): boolean =>
    orderOf(other) === orderOf(observed) &&
    names.every((name) => other.get(name)?.length === observed.get(name)?.length);
  if (!alike(before) || !alike(claimed)) return apart;
  const update = new Distance();
  for (const name of names.filter(isWeight))
    update.addBetween(claimed.get(name)!, observed.get(name)!, before.get(name)!);
  const moments = (kind: string): Moments =>
    names
      .filter((name) => name.startsWith(kind))
      .map((name) => [name.slice(kind.length), claimed.get(name)!, observed.get(name)!]);
  const [first, second] = [moments("first."), moments("second.")];
  const direction = new Distance();
  for (const [place, v, ownV] of second) {
    const [, m, ownM] = first.find(([name]) => name === place) ?? [];
    if (m && ownM) direction.addDirections(m, v, ownM, ownV);
  }
  return {
    weightDeviation: update.relative,
    moments: {
      first: furthest(first, (x) => x),
      second: furthest(second, Math.sqrt),
      direction: direction.relative,
    },
  };
}

type Moments = readonly (readonly [place: string, claimed: Float32Array, observed: Float32Array])[];

const orderOf = (values: StateValues): string => [...values.keys()].join("\n");

/**
 * Of the tensor that is furthest off, so that none hides behind larger ones. Gradients that cancel out, as those of a key's
 * bias, are nothing but rounding: hence the measure of all tensors for what is faint.
 */
function furthest(tensors: Moments, scale: (x: number) => number): number {
  const distances = tensors.map(([, claimed, observed]) => {
    const own = new Distance();
    for (let i = 0; i < observed.length; i++) {
      const size = scale(observed[i]!);
      own.add(scale(claimed[i]!) - size, size);
    }
    return own;
  });
  const all = distances.reduce((sum, own) => sum.plus(own), new Distance());
  return distances.reduce((most, own) => Math.max(most, own.over(faint * all.meanSize)), 0);
}

/** Euclidean, over many numbers. */
class Distance {
  #apart = 0;
  #size = 0;
  #count = 0;

  add(difference: number, size: number): void {
    this.#apart += difference * difference;
    this.#size += size * size;
    this.#count++;
  }

  plus(other: Distance): Distance {
    const sum = new Distance();
    sum.#apart = this.#apart + other.#apart;
    sum.#size = this.#size + other.#size;
    sum.#count = this.#count + other.#count;
    return sum;
  }

  addBetween(claimed: Float32Array, observed: Float32Array, origin: Float32Array): void {
    for (let i = 0; i < observed.length; i++) this.add(claimed[i]! - observed[i]!, observed[i]! - origin[i]!);
  }

  addDirections(m: Float32Array, v: Float32Array, ownM: Float32Array, ownV: Float32Array): void {
    for (let i = 0; i < ownM.length; i++) {
      const own = ownM[i]! / (Math.sqrt(ownV[i]!) + epsilon);
      this.add(m[i]! / (Math.sqrt(v[i]!) + epsilon) - own, own);
    }
  }

  /** Root mean square. */
  get meanSize(): number {
    return this.#count === 0 ? 0 : Math.sqrt(this.#size / this.#count);
  }

  get relative(): number {
    return this.over(0);
  }

  /** Distance over size, or over that of as many numbers of at least `least`; infinite where there is no number. */
  over(least: number): number {
    if (this.#apart === 0) return 0;
    const size = Math.max(Math.sqrt(this.#size), least * Math.sqrt(this.#count));
    const found = Math.sqrt(this.#apart) / size;
    return Number.isNaN(found) ? far : found;
  }
}
