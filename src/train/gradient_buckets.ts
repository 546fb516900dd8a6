import { unexpected } from "../core/error.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { type Parameters, part } from "./parameters.ts";

/** Devices that train one model together, each on its share of a step's microbatches. */
export type Replicas = {
  readonly rank: number;
  readonly count: number;
  /** Sums a tensor over all, in place. */
  sum(t: Tensor): void;
  /** The same beside what is called afterwards, until `join`, which all later calls wait for. */
  start(t: Tensor): void;
  join(): void;
};

/** Of a model's gradients: sums short enough to begin early, and long enough to be worth a launch. */
const bucketsOfModel = 16;

/**
 * The gradients cut into runs of neighbours, each of which is summed over the replicas as soon as the backward pass has
 * added the last there is to it. What that is, the first pass counts: it sums at its end. Runs are the same at every
 * pass and on every replica, and so are their sums, bit for bit.
 */
export class GradientBuckets {
  readonly #group: Replicas;
  readonly #buckets: readonly Tensor[];
  readonly #bucketOf = new Map<number, number>();
  /** Gradients that a pass adds to each bucket; undefined: not counted yet. */
  #expected: readonly number[] | undefined;
  #added: number[] = [];

  constructor(parameters: Parameters, group: Replicas) {
    this.#group = group;
    const size = Math.ceil(parameters.elements / bucketsOfModel);
    const starts: number[] = [];
    for (const [i, { offset }] of parameters.places.entries()) {
      if (starts.length === 0 || offset - starts.at(-1)! >= size) starts.push(offset);
      this.#bucketOf.set(parameters.trained[i]!.value.address, starts.length - 1);
    }
    this.#buckets = starts.map((offset, i) =>
      part(parameters.gradients, { offset }, [(starts[i + 1] ?? parameters.elements) - offset]),
    );
  }

  /** Before a pass that ends a step. */
  begin(): void {
    this.#added = this.#buckets.map(() => 0);
  }

  /** A gradient was added to the parameter at `address`. */
  readonly added = (address: number): void => {
    const bucket = this.#bucketOf.get(address)!;
    const count = ++this.#added[bucket]!;
    if (!this.#expected) return;
    if (count > this.#expected[bucket]!)
      throw unexpected("internal", "gradient buckets", `${this.#expected[bucket]} gradients a pass`, count);
    if (count === this.#expected[bucket]) this.#group.start(this.#buckets[bucket]!);
  };

  /** After the pass: all sums are there for what is called from now on. */
  end(): void {
    if (this.#expected) {
      const missing = this.#expected.findIndex((count, i) => this.#added[i] !== count);
      if (missing >= 0) {
        const expected = `${this.#expected[missing]} gradients a pass`;
        throw unexpected("internal", "gradient buckets", expected, this.#added[missing]);
      }
    } else {
      this.#expected = this.#added;
      for (const [i, bucket] of this.#buckets.entries())
        if (this.#expected[i]! > 0) this.#group.start(bucket);
    }
    this.#group.join();
  }
}
