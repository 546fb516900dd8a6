import { unexpected } from "../../core/error.ts";

/** Longer words are cut: a merge visits every symbol of its words, and a page of digits must not be one of them. */
export const mostWordSymbols = 1 << 14;

/** Distinct words as symbols, with how often each occurs. */
export type Words = {
  readonly symbols: Int32Array;
  /** Word i is symbols[starts[i] .. starts[i + 1]). */
  readonly starts: Uint32Array;
  readonly counts: Float64Array;
};

/** Most distinct words that are kept in memory; beyond it a corpus should be sampled. */
const mostWords = 1 << 23;

/** Counts words by their text. */
export class WordCounter {
  readonly #counts = new Map<string, number>();

  add(word: string): void {
    const before = this.#counts.get(word);
    if (before === undefined && this.#counts.size >= mostWords) {
      const fix = "Train on a part of the corpus";
      throw unexpected("unsupported", "tokenizer training", `at most ${mostWords} distinct words`, "more", {
        fix,
      });
    }
    this.#counts.set(word, (before ?? 0) + 1);
  }

  get size(): number {
    return this.#counts.size;
  }

  /** Words sorted by text, so that nothing depends on the order in which documents came. */
  entries(): [string, number][] {
    return [...this.#counts].sort(([a], [b]) => (a < b ? -1 : 1));
  }
}

/** Words of given symbols; those of fewer than two symbols have nothing to merge and are left out. */
export function packWords(words: Iterable<readonly [symbols: ArrayLike<number>, count: number]>): Words {
  const starts: number[] = [0];
  const counts: number[] = [];
  let symbols = new Int32Array(1 << 16);
  let used = 0;
  for (const [list, count] of words) {
    for (let from = 0; from < list.length; from += mostWordSymbols) {
      const length = Math.min(mostWordSymbols, list.length - from);
      if (length < 2) continue;
      if (used + length > symbols.length) {
        const grown = new Int32Array(2 * symbols.length);
        grown.set(symbols);
        symbols = grown;
      }
      for (let i = 0; i < length; i++) symbols[used++] = list[from + i]!;
      starts.push(used);
      counts.push(count);
    }
  }
  return {
    symbols: symbols.slice(0, used),
    starts: Uint32Array.from(starts),
    counts: Float64Array.from(counts),
  };
}
