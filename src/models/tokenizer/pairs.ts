const EMPTY = -1;

/** An open-addressing table from a pair of symbols (integers >= 0) to an integer, kept in flat arrays. */
export class PairTable {
  #left: Int32Array;
  #right: Int32Array;
  #value: Int32Array;
  #mask: number;
  #size = 0;

  constructor(expected: number) {
    let capacity = 16;
    while (capacity < expected * 2) capacity *= 2;
    this.#left = new Int32Array(capacity).fill(EMPTY);
    this.#right = new Int32Array(capacity);
    this.#value = new Int32Array(capacity);
    this.#mask = capacity - 1;
  }

  get size(): number {
    return this.#size;
  }

  /** The value of the pair, or `absent`. */
  get(left: number, right: number, absent: number): number {
    const slot = this.#slot(left, right);
    return this.#left[slot] === EMPTY ? absent : (this.#value[slot] ?? absent);
  }

  /** Stores a value unless the pair has one already; says whether it did. */
  add(left: number, right: number, value: number): boolean {
    if (this.#size * 2 > this.#mask) this.#grow();
    const slot = this.#slot(left, right);
    if (this.#left[slot] !== EMPTY) return false;
    this.#left[slot] = left;
    this.#right[slot] = right;
    this.#value[slot] = value;
    this.#size++;
    return true;
  }

  clear(): void {
    this.#left.fill(EMPTY);
    this.#size = 0;
  }

  #slot(left: number, right: number): number {
    let slot = hash(left, right) & this.#mask;
    for (;;) {
      const found = this.#left[slot];
      if (found === EMPTY || (found === left && this.#right[slot] === right)) return slot;
      slot = (slot + 1) & this.#mask;
    }
  }

  #grow(): void {
    const [left, right, value] = [this.#left, this.#right, this.#value];
    const capacity = left.length * 2;
    this.#left = new Int32Array(capacity).fill(EMPTY);
    this.#right = new Int32Array(capacity);
    this.#value = new Int32Array(capacity);
    this.#mask = capacity - 1;
    this.#size = 0;
    left.forEach((symbol, slot) => {
      if (symbol !== EMPTY) this.add(symbol, right[slot] ?? 0, value[slot] ?? 0);
    });
  }
}

/** Drawn anew in each process, so that no file can be made whose pairs collide. They do not change any result. */
const [leftFactor = 1, rightFactor = 1] = crypto
  .getRandomValues(new Uint32Array(2))
  .map((factor) => factor | 1);

function hash(left: number, right: number): number {
  let mixed = Math.imul(left, leftFactor) ^ Math.imul(right, rightFactor);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x2c1b3c6d);
  return mixed ^ (mixed >>> 13);
}
