/**
 * Near duplicates by MinHash: a document is the set of its runs of `shingleWords` words; `hashes` minima of that set agree
 * between two documents as often as their sets overlap. Documents that agree in all rows of a band are looked at exactly.
 */
import { randomBits } from "../random.ts";

export type MinHashSettings = {
  /** Words of a shingle. */
  readonly shingleWords: number;
  readonly bands: number;
  readonly rows: number;
  readonly seed: number;
};

export const usualMinHash: MinHashSettings = { shingleWords: 5, bands: 16, rows: 8, seed: 1337 };

/** Words as compared: lower case after NFKC, runs of letters, marks, digits. */
function wordHashes(text: string): Uint32Array {
  const words =
    text
      .normalize("NFKC")
      .toLowerCase()
      .match(/[\p{L}\p{M}\p{N}]+/gu) ?? [];
  return Uint32Array.from(words, hashText);
}

function hashText(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return mixed(h);
}

/** A bijection of 32 bits that spreads every bit (the finaliser of MurmurHash 3). */
function mixed(h: number): number {
  let x = h ^ (h >>> 16);
  x = Math.imul(x, 0x85ebca6b);
  x ^= x >>> 13;
  x = Math.imul(x, 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** The distinct shingles, sorted; a text of fewer words is one shingle. None where the text has no word. */
export function shinglesOf(text: string, words: number): Uint32Array {
  const hashes = wordHashes(text);
  if (hashes.length === 0) return new Uint32Array(0);
  const count = Math.max(1, hashes.length - words + 1);
  const all = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    let h = 0;
    for (let j = i; j < Math.min(i + words, hashes.length); j++) h = mixed(Math.imul(h, 31) ^ hashes[j]!);
    all[i] = h;
  }
  all.sort();
  let kept = 0;
  for (let i = 0; i < count; i++) if (i === 0 || all[i] !== all[kept - 1]) all[kept++] = all[i]!;
  return all.slice(0, kept);
}

/** Shares of the union that both sets have; both sorted and distinct. */
export function jaccard(a: Uint32Array, b: Uint32Array): number {
  let [i, j, both] = [0, 0, 0];
  while (i < a.length && j < b.length) {
    const [x, y] = [a[i]!, b[j]!];
    if (x === y) both++;
    if (x <= y) i++;
    if (y <= x) j++;
  }
  const union = a.length + b.length - both;
  return union === 0 ? 0 : both / union;
}

/** Finds sets that probably overlap with a given one. */
export class MinHashIndex {
  readonly #settings: MinHashSettings;
  readonly #factors: Int32Array;
  readonly #offsets: Int32Array;
  readonly #bands: Map<string, number[]>[];
  #count = 0;
  /** A set is asked about before it is taken in. */
  #last: { readonly shingles: Uint32Array; readonly keys: string[] } | undefined;

  constructor(settings: MinHashSettings) {
    this.#settings = settings;
    const bits = randomBits(`psionic minhash ${settings.seed}`);
    const hashes = settings.bands * settings.rows;
    this.#factors = Int32Array.from({ length: hashes }, () => bits() | 1);
    this.#offsets = Int32Array.from({ length: hashes }, () => bits() | 0);
    this.#bands = Array.from({ length: settings.bands }, () => new Map());
  }

  /** Minima of the set under each hash. */
  signature(shingles: Uint32Array): Uint32Array {
    const hashes = this.#factors.length;
    const least = new Uint32Array(hashes).fill(0xffffffff);
    for (let k = 0; k < hashes; k++) {
      const [factor, offset] = [this.#factors[k]!, this.#offsets[k]!];
      let low = 0xffffffff;
      for (let i = 0; i < shingles.length; i++) {
        const h = (Math.imul(shingles[i]!, factor) + offset) >>> 0;
        if (h < low) low = h;
      }
      least[k] = low;
    }
    return least;
  }

  /** Numbers of sets that share a band with this one, rising. */
  candidates(shingles: Uint32Array): number[] {
    const found = new Set<number>();
    this.#keys(shingles).forEach((key, i) => {
      for (const other of this.#bands[i]!.get(key) ?? []) found.add(other);
    });
    return [...found].sort((a, b) => a - b);
  }

  /** Takes in a set, which gets the next number, from 0. */
  add(shingles: Uint32Array): void {
    const number = this.#count++;
    this.#keys(shingles).forEach((key, i) => {
      const same = this.#bands[i]!.get(key);
      if (same === undefined) this.#bands[i]!.set(key, [number]);
      else same.push(number);
    });
  }

  #keys(shingles: Uint32Array): string[] {
    if (shingles.length === 0) return [];
    if (this.#last?.shingles === shingles) return this.#last.keys;
    const { rows } = this.#settings;
    const signature = this.signature(shingles);
    const keys = this.#bands.map((_, i) => signature.subarray(i * rows, (i + 1) * rows).join());
    this.#last = { shingles, keys };
    return keys;
  }
}
