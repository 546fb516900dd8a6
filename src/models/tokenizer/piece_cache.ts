/** Longer pieces are rare and would let hostile text fill memory. UTF-16 units. */
const MAX_PIECE_UNITS = 64;
const SLOTS = 1 << 16;
const MAX_ENTRIES = (SLOTS * 3) / 4;
const KEY_UNITS = 1 << 20;
const ID_COUNT = 1 << 19;
/** A bound on the search, so that text made to collide costs misses and no more. */
const PROBES = 16;

/** One generation: a hash table from stretches of text to ids, in flat arrays that never grow. */
class Generation {
  readonly #hashes = new Int32Array(SLOTS);
  /** Of slot i: start and length of the key, start and count of the ids. A length of 0 means free. */
  readonly #entries = new Int32Array(SLOTS * 4);
  readonly #keys = new Uint16Array(KEY_UNITS);
  readonly #ids = new Int32Array(ID_COUNT);
  #usedEntries = 0;
  #usedKeys = 0;
  #usedIds = 0;

  get isFull(): boolean {
    return (
      this.#usedEntries >= MAX_ENTRIES ||
      this.#usedKeys + MAX_PIECE_UNITS > KEY_UNITS ||
      this.#usedIds + 4 * MAX_PIECE_UNITS > ID_COUNT
    );
  }

  /** The slot of the piece, or -1. */
  find(text: string, start: number, length: number, hash: number): number {
    for (let probe = 0; probe < PROBES; probe++) {
      const slot = (hash + probe) & (SLOTS - 1);
      const keyLength = this.#entries[slot * 4 + 1] as number;
      if (keyLength === 0) return -1;
      if (this.#hashes[slot] === hash && keyLength === length && this.#hasKey(slot, text, start)) return slot;
    }
    return -1;
  }

  #hasKey(slot: number, text: string, start: number): boolean {
    const key = this.#entries[slot * 4] as number;
    const length = this.#entries[slot * 4 + 1] as number;
    for (let i = 0; i < length; i++) {
      if (this.#keys[key + i] !== text.charCodeAt(start + i)) return false;
    }
    return true;
  }

  appendIds(slot: number, out: number[]): void {
    const from = this.#entries[slot * 4 + 2] as number;
    const count = this.#entries[slot * 4 + 3] as number;
    for (let i = from; i < from + count; i++) out.push(this.#ids[i] as number);
  }

  /** Stores `ids[idsFrom, ...)`; when its place is crowded the piece takes that of another. */
  store(text: string, start: number, length: number, hash: number, ids: readonly number[], idsFrom: number) {
    let slot = hash & (SLOTS - 1);
    for (let probe = 0; probe < PROBES; probe++) {
      const candidate = (hash + probe) & (SLOTS - 1);
      if (this.#entries[candidate * 4 + 1] !== 0) continue;
      slot = candidate;
      break;
    }
    const count = ids.length - idsFrom;
    this.#hashes[slot] = hash;
    this.#entries.set([this.#usedKeys, length, this.#usedIds, count], slot * 4);
    for (let i = 0; i < length; i++) this.#keys[this.#usedKeys++] = text.charCodeAt(start + i);
    for (let i = 0; i < count; i++) this.#ids[this.#usedIds++] = ids[idsFrom + i] as number;
    this.#usedEntries++;
  }
}

/**
 * Ids of the pieces met recently, in two generations: when the young one is full it becomes the old one, whose entries
 * return to the young one when they are used. About 10 MB at most.
 */
export class PieceCache {
  #young = new Generation();
  #old: Generation | undefined;

  /** Appends the ids of `text[start, end)` to `out`, from the cache or else by `encode`, which must append them. */
  append(text: string, start: number, end: number, out: number[], encode: (piece: string) => void): void {
    const length = end - start;
    if (length > MAX_PIECE_UNITS) {
      encode(text.slice(start, end));
      return;
    }
    let hash = length;
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x5bd1e995);
    hash ^= hash >>> 15;
    const young = this.#young.find(text, start, length, hash);
    if (young >= 0) {
      this.#young.appendIds(young, out);
      return;
    }
    const before = out.length;
    const old = this.#old?.find(text, start, length, hash) ?? -1;
    if (old >= 0) this.#old?.appendIds(old, out);
    else encode(text.slice(start, end));
    if (out.length - before > 4 * MAX_PIECE_UNITS) return;
    if (this.#young.isFull) {
      this.#old = this.#young;
      this.#young = new Generation();
    }
    this.#young.store(text, start, length, hash, out, before);
  }
}
