import type { BlockName } from "./block.ts";

/** A block to be read, and the bytes that its payload must have. */
export type BlockJob = { readonly name: BlockName; readonly path: string; readonly bytes: number };

/** To a reading thread: the blocks, and the memory that it shares with whoever wants them. */
export type ReaderMessage = {
  readonly jobs: readonly BlockJob[];
  readonly memory: SharedArrayBuffer;
  readonly slots: number;
};

/** What a slot holds: nothing yet of the block that is its next, that block, or word that it cannot be had so. */
const [empty, full, faulty] = [0, 1, 2];
const states = 3;

const [nextWord, cancelledWord, firstSlot] = [0, 1, 2];
const alignment = 64;

/**
 * Blocks that several threads read ahead of the one that wants them. Those take the next block of the list each and wait for
 * its slot, which is one of a ring; the other goes through the list in order and gives the slots back. Nothing is posted to
 * it: it sleeps on the slot.
 */
export class ReadAhead {
  readonly memory: SharedArrayBuffer;
  private readonly slots: number;
  private readonly words: Int32Array;
  private readonly slotBytes: number;

  constructor(memory: SharedArrayBuffer, slots: number) {
    this.memory = memory;
    this.slots = slots;
    this.words = new Int32Array(memory, 0, firstSlot + slots);
    this.slotBytes = (memory.byteLength - ReadAhead.head(slots)) / slots;
  }

  /** Slots for blocks of up to `bytes` in all. */
  static allocate(bytes: number, slots: number): ReadAhead {
    const slotBytes = Math.ceil(bytes / alignment) * alignment;
    const memory = new SharedArrayBuffer(ReadAhead.head(slots) + slots * slotBytes);
    const ahead = new ReadAhead(memory, slots);
    for (let s = 0; s < slots; s++) ahead.words[firstSlot + s] = states * s + empty;
    return ahead;
  }

  private static head(slots: number): number {
    return Math.ceil((4 * (firstSlot + slots)) / alignment) * alignment;
  }

  /** A reader's next block among `count`; -1 when there is none. */
  claim(count: number): number {
    const job = Atomics.add(this.words, nextWord, 1);
    return job < count && !this.cancelled ? job : -1;
  }

  get cancelled(): boolean {
    return Atomics.load(this.words, cancelledWord) !== 0;
  }

  /** Nobody wants the rest. */
  cancel(): void {
    Atomics.store(this.words, cancelledWord, 1);
    for (let s = 0; s < this.slots; s++) Atomics.notify(this.words, firstSlot + s);
  }

  /** Waits for a block's slot and gives its memory; undefined when nobody wants it any more. */
  room(job: number): Uint8Array | undefined {
    const word = firstSlot + (job % this.slots);
    for (;;) {
      const seen = Atomics.load(this.words, word);
      if (this.cancelled) return undefined;
      if (seen === states * job + empty) return this.bytes(job);
      Atomics.wait(this.words, word, seen, 100);
    }
  }

  /** Tells that a block is in its slot, or that it cannot be had so. */
  done(job: number, good: boolean): void {
    const word = firstSlot + (job % this.slots);
    Atomics.store(this.words, word, states * job + (good ? full : faulty));
    Atomics.notify(this.words, word);
  }

  /** Waits for a block, at most so long; undefined: it cannot be had so. */
  take(job: number, timeoutMs: number): Uint8Array | undefined {
    const word = firstSlot + (job % this.slots);
    const end = performance.now() + timeoutMs;
    for (;;) {
      const seen = Atomics.load(this.words, word);
      if (seen === states * job + full) return this.bytes(job);
      const left = end - performance.now();
      if (seen === states * job + faulty || left <= 0) return undefined;
      Atomics.wait(this.words, word, seen, left);
    }
  }

  /** A block's slot is for the next one. */
  release(job: number): void {
    const word = firstSlot + (job % this.slots);
    Atomics.store(this.words, word, states * (job + this.slots) + empty);
    Atomics.notify(this.words, word);
  }

  private bytes(job: number): Uint8Array {
    const at = ReadAhead.head(this.slots) + (job % this.slots) * this.slotBytes;
    return new Uint8Array(this.memory, at, this.slotBytes);
  }
}
