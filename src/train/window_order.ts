import { shuffled } from "./random.ts";

/** The order in which a run's windows are read: a function of the seed and their count, another one in each epoch. */
export class WindowOrder {
  readonly #seed: number;
  readonly #count: number;
  #current: { readonly epoch: number; readonly indices: Uint32Array } | undefined;

  constructor(seed: number, count: number) {
    this.#seed = seed;
    this.#count = count;
  }

  /** The windows at places `from` to `from + length` of all that are read. */
  indices(from: number, length: number): number[] {
    return Array.from({ length }, (_, i) => {
      const epoch = Math.floor((from + i) / this.#count);
      if (this.#current?.epoch !== epoch) {
        const seed = `psionic order of windows ${this.#seed} ${epoch}`;
        this.#current = { epoch, indices: shuffled(seed, this.#count) };
      }
      return this.#current.indices[(from + i) % this.#count]!;
    });
  }
}
