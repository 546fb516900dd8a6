/**
 * Byte-pair encoding: again and again the most frequent pair of neighbours becomes one symbol. Every merge touches only
 * the words that hold its pair; counts are kept per pair, and a heap gives the most frequent. The result depends on
 * nothing but the words: equal counts are told apart by `before`.
 */
import { PairTable } from "../../models/tokenizer/pairs.ts";
import type { Words } from "./words.ts";

export type LearnOptions = {
  /** Texts of the symbols that words are made of, by id; merged ones are appended. */
  readonly alphabet: readonly string[];
  /** Size of the vocabulary to reach. */
  readonly size: number;
  /** Rarer pairs are not merged. */
  readonly leastCount: number;
  /** Whether two symbols may become one. */
  readonly allowed?: (left: string, right: string) => boolean;
  /** Order of pairs of equal counts: negative when (a, b) goes before (c, d). */
  readonly before: (a: number, b: number, c: number, d: number, texts: readonly string[]) => number;
  readonly onMerge?: (done: number) => void;
};

export type Learned = {
  /** Texts by id: the alphabet, then what merges made. */
  readonly texts: readonly string[];
  readonly merges: readonly (readonly [left: number, right: number])[];
};

/** Pairs in the order of their ids, as Hugging Face's trainer breaks ties. */
export const byId: LearnOptions["before"] = (a, b, c, d) => a - c || b - d;

export function learnMerges(words: Words, options: LearnOptions): Learned {
  return new Learner(words, options).run();
}

class Learner {
  readonly #options: LearnOptions;
  readonly #texts: string[];
  readonly #ids: Map<string, number>;
  readonly #symbols: Int32Array;
  readonly #starts: Uint32Array;
  readonly #lengths: Uint32Array;
  readonly #wordCounts: Float64Array;
  readonly #pairs = new PairTable(1 << 16);
  readonly #left: number[] = [];
  readonly #right: number[] = [];
  readonly #counts: number[] = [];
  /** Words in which a pair may occur. */
  readonly #places: number[][] = [];
  readonly #heap: PairHeap;
  /** Pairs whose count rose in this merge. */
  #raised = new Set<number>();

  constructor(words: Words, options: LearnOptions) {
    this.#options = options;
    this.#texts = [...options.alphabet];
    this.#ids = new Map(this.#texts.map((text, id) => [text, id]));
    this.#symbols = words.symbols.slice();
    this.#starts = words.starts;
    this.#wordCounts = words.counts;
    this.#lengths = Uint32Array.from(words.counts, (_, i) => words.starts[i + 1]! - words.starts[i]!);
    this.#heap = new PairHeap((a, b) =>
      options.before(this.#left[a]!, this.#right[a]!, this.#left[b]!, this.#right[b]!, this.#texts),
    );
  }

  run(): Learned {
    const { size, leastCount, allowed, onMerge } = this.#options;
    this.#countPairs();
    const merges: [number, number][] = [];
    while (this.#texts.length < size) {
      const top = this.#heap.pop();
      if (top === undefined || top.count < leastCount) break;
      const { pair } = top;
      const count = this.#counts[pair]!;
      // a stale entry: the count has fallen since, and a rise has an entry of its own
      if (count !== top.count) {
        if (count >= leastCount && count < top.count) this.#heap.push(pair, count);
        continue;
      }
      const [left, right] = [this.#left[pair]!, this.#right[pair]!];
      if (allowed && !allowed(this.#texts[left]!, this.#texts[right]!)) {
        this.#counts[pair] = 0;
        continue;
      }
      this.#merge(pair, left, right);
      merges.push([left, right]);
      onMerge?.(this.#texts.length);
    }
    return { texts: this.#texts, merges };
  }

  #countPairs(): void {
    for (let w = 0; w < this.#lengths.length; w++) {
      const start = this.#starts[w]!;
      for (let i = start; i + 1 < start + this.#lengths[w]!; i++)
        this.#add(this.#symbols[i]!, this.#symbols[i + 1]!, w, this.#wordCounts[w]!);
    }
    this.#offerRaised();
  }

  #add(left: number, right: number, word: number, change: number): void {
    let pair = this.#pairs.get(left, right, -1);
    if (pair < 0) {
      if (change <= 0) return;
      pair = this.#counts.length;
      this.#pairs.add(left, right, pair);
      this.#left.push(left);
      this.#right.push(right);
      this.#counts.push(0);
      this.#places.push([]);
    }
    this.#counts[pair]! += change;
    if (change < 0) return;
    const places = this.#places[pair]!;
    if (places[places.length - 1] !== word) places.push(word);
    this.#raised.add(pair);
  }

  #offerRaised(): void {
    for (const pair of this.#raised) if (this.#counts[pair]! > 0) this.#heap.push(pair, this.#counts[pair]!);
    this.#raised.clear();
  }

  /** Two merges may spell one text; then they lead to one symbol. */
  #symbolOf(text: string): number {
    const known = this.#ids.get(text);
    if (known !== undefined) return known;
    this.#texts.push(text);
    this.#ids.set(text, this.#texts.length - 1);
    return this.#texts.length - 1;
  }

  #merge(pair: number, left: number, right: number): void {
    const merged = this.#symbolOf(this.#texts[left]! + this.#texts[right]!);
    const places = this.#places[pair]!;
    this.#places[pair] = [];
    for (const word of places) this.#mergeIn(word, left, right, merged);
    this.#counts[pair] = 0;
    this.#raised.delete(pair);
    this.#offerRaised();
  }

  #mergeIn(word: number, left: number, right: number, merged: number): void {
    const symbols = this.#symbols;
    const start = this.#starts[word]!;
    const end = start + this.#lengths[word]!;
    const count = this.#wordCounts[word]!;
    let out = start;
    for (let i = start; i < end; i++) {
      const symbol = symbols[i]!;
      if (symbol !== left || i + 1 >= end || symbols[i + 1] !== right) {
        symbols[out++] = symbol;
        continue;
      }
      if (out > start) {
        this.#add(symbols[out - 1]!, left, word, -count);
        this.#add(symbols[out - 1]!, merged, word, count);
      }
      if (i + 2 < end) {
        this.#add(right, symbols[i + 2]!, word, -count);
        this.#add(merged, symbols[i + 2]!, word, count);
      }
      symbols[out++] = merged;
      i++;
    }
    this.#lengths[word] = out - start;
  }
}

/** A binary heap of pairs: the highest count first, then by the given order. */
class PairHeap {
  readonly #before: (a: number, b: number) => number;
  readonly #pairs: number[] = [];
  readonly #counts: number[] = [];

  constructor(before: (a: number, b: number) => number) {
    this.#before = before;
  }

  #first(pair: number, count: number, at: number): boolean {
    const other = this.#counts[at]!;
    return count > other || (count === other && this.#before(pair, this.#pairs[at]!) < 0);
  }

  push(pair: number, count: number): void {
    const [pairs, counts] = [this.#pairs, this.#counts];
    let at = pairs.length;
    pairs.push(pair);
    counts.push(count);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#first(pair, count, parent)) break;
      pairs[at] = pairs[parent]!;
      counts[at] = counts[parent]!;
      at = parent;
    }
    pairs[at] = pair;
    counts[at] = count;
  }

  pop(): { readonly pair: number; readonly count: number } | undefined {
    const [pairs, counts] = [this.#pairs, this.#counts];
    if (pairs.length === 0) return undefined;
    const top = { pair: pairs[0]!, count: counts[0]! };
    const pair = pairs.pop()!;
    const count = counts.pop()!;
    const size = pairs.length;
    if (size === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= size) break;
      if (child + 1 < size && this.#first(pairs[child + 1]!, counts[child + 1]!, child)) child++;
      if (this.#first(pair, count, child)) break;
      pairs[at] = pairs[child]!;
      counts[at] = counts[child]!;
      at = child;
    }
    pairs[at] = pair;
    counts[at] = count;
    return top;
  }
}
