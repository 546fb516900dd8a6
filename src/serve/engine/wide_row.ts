/** Places of tokens still in, their logits and weights, in order of ids; memory of one row, kept for the next. */
let room = 0;
let ids = new Int32Array(0);
let logits = new Float64Array(0);
let weights = new Float64Array(0);
let nearness = new Float64Array(0);
let ones = new Float64Array(0);

function makeRoom(size: number): void {
  if (size <= room) return;
  room = size;
  ids = new Int32Array(size);
  logits = new Float64Array(size);
  weights = new Float64Array(size);
  nearness = new Float64Array(size);
  ones = new Float64Array(size).fill(1);
}

/**
 * Candidates that are too many to be sorted: a whole row of logits. The stages are those of candidates.ts and keep the
 * same tokens; where an order is needed, tokens are counted into ranges of logits and only the range that decides is
 * looked at closely. So every stage takes a few passes over the row, whatever its distribution. One row at a time: the
 * next one takes over the memory.
 */
export class WideRow {
  /** log(sum(exp(row))); NaN takes no part */
  readonly logSum: number;
  #count = 0;
  #mass = 0;
  #top = -Infinity;

  constructor(row: Float32Array) {
    makeRoom(row.length);
    let top = -Infinity;
    for (let i = 0; i < row.length; i++) if (row[i]! > top) top = row[i]!;
    let n = 0;
    let mass = 0;
    for (let i = 0; i < row.length; i++) {
      const x = row[i]!;
      const w = Math.exp(x - top);
      // what has no weight, NaN among it, is never drawn
      if (!(w > 0)) continue;
      ids[n] = i;
      logits[n] = x;
      weights[n] = w;
      mass += w;
      n += 1;
    }
    this.#top = top;
    this.#count = n;
    this.#mass = mass;
    this.logSum = top + Math.log(mass);
  }

  /** The highest probability of a token. */
  get peak(): number {
    return 1 / this.#mass;
  }

  keepTopK(k: number): void {
    if (k > 0 && k < this.#count) this.#keepTo(logits, find(logits, ones, this.#count, k, false));
  }

  keepTypical(p: number): void {
    if (p >= 1) return;
    const n = this.#count;
    // a token's surprise less the entropy is the distance of its logit from the mean logit
    let mean = 0;
    for (let i = 0; i < n; i++) mean += weights[i]! * logits[i]!;
    mean /= this.#mass;
    for (let i = 0; i < n; i++) nearness[i] = -Math.abs(logits[i]! - mean);
    this.#keepTo(nearness, find(nearness, weights, n, p * this.#mass, true));
  }

  keepTopP(p: number): void {
    if (p < 1) this.#keepTo(logits, find(logits, weights, this.#count, p * this.#mass, false));
  }

  keepMinP(p: number): void {
    if (p <= 0) return;
    const floor = this.#highest() + Math.log(p);
    this.#restart();
    for (let i = 0, n = this.#count, to = 0; i < n; i++) if (logits[i]! >= floor) to = this.#take(i, to);
  }

  excludeTop(threshold: number): void {
    if (threshold > 0.5) return;
    const least = threshold * this.#mass;
    let above = 0;
    let last = -1;
    for (let i = 0; i < this.#count; i++) {
      if (weights[i]! < least) continue;
      above += 1;
      if (last < 0 || logits[i]! <= logits[last]!) last = i;
    }
    if (above < 2) return;
    this.#restart();
    for (let i = 0, n = this.#count, to = 0; i < n; i++) {
      if (i === last || weights[i]! < least) to = this.#take(i, to);
    }
  }

  /** Token at place `u` in [0, 1) of softmax(logits / temperature), in falling order; -1 when there is none. */
  draw(temperature: number, u: number): number {
    const top = this.#highest();
    if (temperature !== 1 || top !== this.#top) {
      this.#mass = 0;
      for (let i = 0; i < this.#count; i++) {
        const w = Math.exp((logits[i]! - top) / temperature);
        weights[i] = w;
        this.#mass += w;
      }
    }
    const place = find(logits, weights, this.#count, u * this.#mass, true);
    return place < 0 ? -1 : ids[place]!;
  }

  #highest(): number {
    let top = -Infinity;
    for (let i = 0; i < this.#count; i++) if (logits[i]! > top) top = logits[i]!;
    return top;
  }

  /** Keeps what ranks up to `cut`: higher keys first, then higher logits, then lower ids. */
  #keepTo(keys: Float64Array, cut: number): void {
    if (cut < 0) return;
    const key = keys[cut]!;
    const logit = logits[cut]!;
    const n = this.#count;
    this.#restart();
    for (let i = 0, to = 0; i < n; i++) {
      const over = keys[i]! - key;
      if (over < 0) continue;
      if (over > 0 || logits[i]! > logit || (logits[i] === logit && i <= cut)) to = this.#take(i, to);
    }
  }

  #restart(): void {
    this.#mass = 0;
  }

  /** Moves token `i` to place `to`; gives the next place. */
  #take(i: number, to: number): number {
    ids[to] = ids[i]!;
    logits[to] = logits[i]!;
    weights[to] = weights[i]!;
    this.#mass += weights[i]!;
    this.#count = to + 1;
    return to + 1;
  }
}

const ranges = 4096;
/** A range of at most so many tokens is sorted. */
const fewEnough = 512;
const masses = new Float64Array(ranges);
const counts = new Int32Array(ranges);

/**
 * The first of `count` places, by falling keys, then logits, then rising places, at which the shares summed up so far
 * reach (or `pass`) a limit; the last one when they never do; -1 when there are none.
 */
function find(keys: Float64Array, shares: Float64Array, count: number, limit: number, pass: boolean): number {
  let members: Int32Array | undefined;
  let before = 0;
  let order = keys;
  for (let n = count; n > fewEnough; n = members.length) {
    members ??= places(count);
    const split = splitRange(order, shares, members, before, limit, pass);
    if (split) [members, before] = split;
    // all are equal: by logits, then as they stand
    else if (order === logits) return walk(members, shares, before, limit, pass);
    else order = logits;
  }
  const sorted = (members ?? places(count)).slice();
  sorted.sort((i, j) => keys[j]! - keys[i]! || logits[j]! - logits[i]! || i - j);
  return walk(sorted, shares, before, limit, pass);
}

/** The members of the range of keys in which the limit lies, and what the ranges above sum up to. */
function splitRange(
  order: Float64Array,
  shares: Float64Array,
  members: Int32Array,
  before: number,
  limit: number,
  pass: boolean,
): [members: Int32Array, before: number] | undefined {
  let low = Infinity;
  let high = -Infinity;
  for (let m = 0; m < members.length; m++) {
    const x = order[members[m]!]!;
    if (x < low) low = x;
    if (x > high) high = x;
  }
  if (low === high) return undefined;
  const scale = Math.min((ranges - 1) / (high - low), Number.MAX_VALUE);
  masses.fill(0);
  counts.fill(0);
  for (let m = 0; m < members.length; m++) {
    const i = members[m]!;
    const range = ((high - order[i]!) * scale) | 0;
    masses[range]! += shares[i]!;
    counts[range]! += 1;
  }
  let sum = before;
  let chosen = -1;
  for (let range = 0; range < ranges; range++) {
    if (counts[range] === 0) continue;
    if (chosen >= 0) sum += masses[chosen]!;
    chosen = range;
    const reached = sum + masses[range]!;
    if (reached > limit || (!pass && reached === limit)) break;
  }
  const inside = new Int32Array(counts[chosen]!);
  for (let m = 0, n = 0; m < members.length; m++) {
    const i = members[m]!;
    if ((((high - order[i]!) * scale) | 0) === chosen) inside[n++] = i;
  }
  return [inside, sum];
}

function walk(
  members: Int32Array,
  shares: Float64Array,
  before: number,
  limit: number,
  pass: boolean,
): number {
  let sum = before;
  for (const i of members) {
    sum += shares[i]!;
    if (sum > limit || (!pass && sum === limit)) return i;
  }
  return members.at(-1) ?? -1;
}

let identity = new Int32Array(0);

/** 0..count-1 */
export function places(count: number): Int32Array {
  if (identity.length < count) {
    identity = new Int32Array(count);
    for (let i = 0; i < count; i++) identity[i] = i;
  }
  return identity.subarray(0, count);
}
