import { type Pointer, toArrayBuffer } from "bun:ffi";
import type { BlockName } from "./block.ts";

/** A block to be read, and the bytes that its payload must have. */
export type BlockJob = { readonly name: BlockName; readonly path: string; readonly bytes: number };

/** Memory outside of the heap that slots lie in: a device may copy from it. */
export type SlotMemory = { readonly address: number; readonly slotBytes: number };

/** To a reading thread: the blocks, and the memory that it shares with whoever wants them. */
export type ReaderMessage = {
  /** `BlockJob[]` as JSON, which is made once for all threads. */
  readonly jobs: string;
  readonly memory: SharedArrayBuffer;
  readonly slots: number;
  /** Absent: slots lie in `memory`, too. */
  readonly outside?: SlotMemory | undefined;
};

/** What a slot holds: nothing yet of the block that is its next, that block, or word that it cannot be had so. */
const [empty, full, faulty] = [0, 1, 2];
const states = 3;

const [nextWord, cancelledWord, leftWord, firstSlot] = [0, 1, 2, 3];
const alignment = 64;

/** Bytes from one slot to the next, for blocks of up to `bytes` in all. */
export function slotStride(bytes: number): number {
  return Math.ceil(bytes / alignment) * alignment;
}

/**
 * Blocks that several threads read ahead of the one that wants them. Those take the next block of the list each and wait for
 * its slot, which is one of a ring; the other goes through the list in order and gives the slots back. Nothing is posted to
 * it: it sleeps on the slot.
 */
export class ReadAhead {
  readonly memory: SharedArrayBuffer;
  private readonly slots: number;
  private readonly words: Int32Array;
  private readonly outside: SlotMemory | undefined;
  private readonly slotBytes: number;
  /** What the slots lie in, from the first one on. */
  private readonly slotsAt: { readonly buffer: ArrayBufferLike; readonly at: number };

  constructor(memory: SharedArrayBuffer, slots: number, outside?: SlotMemory) {
    const head = ReadAhead.head(slots);
    this.memory = memory;
    this.slots = slots;
    this.outside = outside;
    this.words = new Int32Array(memory, 0, firstSlot + slots);
    this.slotBytes = outside?.slotBytes ?? (memory.byteLength - head) / slots;
    this.slotsAt = outside
      ? { buffer: toArrayBuffer(outside.address as Pointer, 0, slots * outside.slotBytes), at: 0 }
      : { buffer: memory, at: head };
  }

  /** Slots for blocks of up to `bytes` in all, in memory of their own or outside. */
  static allocate(bytes: number, slots: number, outside?: SlotMemory): ReadAhead {
    const own = outside ? 0 : slots * slotStride(bytes);
    const ahead = new ReadAhead(new SharedArrayBuffer(ReadAhead.head(slots) + own), slots, outside);
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

  /** A reader will not touch the slots any more. */
  leave(): void {
    Atomics.add(this.words, leftWord, 1);
    Atomics.notify(this.words, leftWord);
  }

  /** Waits until so many readers have left, at most so long; false when some have not. */
  left(readers: number, timeoutMs: number): boolean {
    const end = performance.now() + timeoutMs;
    for (;;) {
      const seen = Atomics.load(this.words, leftWord);
      if (seen >= readers) return true;
      const wait = end - performance.now();
      if (wait <= 0) return false;
      Atomics.wait(this.words, leftWord, seen, wait);
    }
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

  /** Where a block's slot lies, if that is outside. */
  address(job: number): number | undefined {
    return this.outside && this.outside.address + (job % this.slots) * this.slotBytes;
  }

  private bytes(job: number): Uint8Array {
    const { buffer, at } = this.slotsAt;
    return new Uint8Array(buffer, at + (job % this.slots) * this.slotBytes, this.slotBytes);
  }
}
