/** Which adjacent symbols may become one: `find` gives a rule or -1, and a rule has a rank and a result. */
export type MergeRules = {
  find(left: number, right: number): number;
  /** Lower is merged earlier. */
  readonly rank: Int32Array;
  readonly result: Int32Array;
};

/** Above this many symbols the heap costs less than looking at every pair again. */
const SCAN_LIMIT = 40;
/** Ranks and positions share the 53 bits of a heap key. */
const POSITION_RANGE = 2 ** 27;
const NO_RANK = 0x7fffffff;

const scanRules = new Int32Array(SCAN_LIMIT);
const scanRanks = new Int32Array(SCAN_LIMIT);

/**
 * Repeatedly merges the adjacent pair of lowest rank (the leftmost among equals) in `symbols[0, count)`, in place.
 * Returns how many symbols are left. Costs O(count log count) at worst.
 */
export function mergeSymbols(symbols: Int32Array, count: number, rules: MergeRules): number {
  return count <= SCAN_LIMIT ? mergeByScan(symbols, count, rules) : mergeByHeap(symbols, count, rules);
}

function mergeByScan(symbols: Int32Array, count: number, rules: MergeRules): number {
  let left = count;
  for (let i = 0; i + 1 < left; i++) setPair(symbols, i, rules);
  while (left > 1) {
    let best = 0;
    let bestRank = NO_RANK;
    for (let i = 0; i + 1 < left; i++) {
      const rank = scanRanks[i] as number;
      if (rank < bestRank) {
        bestRank = rank;
        best = i;
      }
    }
    if (bestRank === NO_RANK) break;
    symbols[best] = rules.result[scanRules[best] as number] as number;
    left--;
    for (let i = best + 1; i < left; i++) {
      symbols[i] = symbols[i + 1] as number;
      scanRules[i] = scanRules[i + 1] as number;
      scanRanks[i] = scanRanks[i + 1] as number;
    }
    if (best > 0) setPair(symbols, best - 1, rules);
    if (best + 1 < left) setPair(symbols, best, rules);
  }
  return left;
}

function setPair(symbols: Int32Array, i: number, rules: MergeRules): void {
  const rule = rules.find(symbols[i] as number, symbols[i + 1] as number);
  scanRules[i] = rule;
  scanRanks[i] = rule < 0 ? NO_RANK : (rules.rank[rule] as number);
}

function mergeByHeap(symbols: Int32Array, count: number, rules: MergeRules): number {
  const next = Int32Array.from({ length: count }, (_, i) => i + 1);
  const previous = Int32Array.from({ length: count }, (_, i) => i - 1);
  const rule = new Int32Array(count).fill(-1);
  // Each merge adds at most two pairs to the count - 1 there are at first.
  const heap = new MinHeap(3 * count);
  const offer = (i: number): void => {
    const after = next[i] as number;
    const found = after < count ? rules.find(symbols[i] as number, symbols[after] as number) : -1;
    rule[i] = found;
    if (found >= 0) heap.push((rules.rank[found] as number) * POSITION_RANGE + i);
  };
  for (let i = 0; i + 1 < count; i++) offer(i);
  while (heap.size > 0) {
    const key = heap.pop();
    const rank = Math.floor(key / POSITION_RANGE);
    const i = key - rank * POSITION_RANGE;
    const current = rule[i] as number;
    // Stale: the pair that was here has changed since it was offered.
    if (current < 0 || rules.rank[current] !== rank) continue;
    const gone = next[i] as number;
    const after = next[gone] as number;
    symbols[i] = rules.result[current] as number;
    rule[gone] = -1;
    next[i] = after;
    if (after < count) previous[after] = i;
    offer(i);
    const before = previous[i] as number;
    if (before >= 0) offer(before);
  }
  let left = 0;
  for (let i = 0; i < count; i = next[i] as number) symbols[left++] = symbols[i] as number;
  return left;
}

/** A binary heap of numbers with a fixed capacity. */
class MinHeap {
  readonly #keys: Float64Array;
  size = 0;

  constructor(capacity: number) {
    this.#keys = new Float64Array(capacity);
  }

  push(key: number): void {
    const keys = this.#keys;
    let at = this.size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const parentKey = keys[parent] as number;
      if (parentKey <= key) break;
      keys[at] = parentKey;
      at = parent;
    }
    keys[at] = key;
  }

  pop(): number {
    const keys = this.#keys;
    const top = keys[0] as number;
    const last = keys[--this.size] as number;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.size) break;
      if (child + 1 < this.size && (keys[child + 1] as number) < (keys[child] as number)) child++;
      const childKey = keys[child] as number;
      if (childKey >= last) break;
      keys[at] = childKey;
      at = child;
    }
    keys[at] = last;
    return top;
  }
}
