/** The memory that a loader and its worker share: slots of batches, filled in turn by one and emptied by the other. */

import type { LoaderCursor } from "./contract.ts";
import { emptyBatch, type LoadedBatch } from "./reader.ts";

/** What a slot holds. */
export const slotState = { empty: 0, full: 1, ended: 2, failed: 3 } as const;

/** A closing loader sets this; the worker looks at it between batches. */
const CLOSING = 0;
const headWords = 2;
/** f64: cursor before the batch is irrelevant; these are the fields of the cursor after it. */
const cursorFields = [
  "epoch",
  "next_shard_index",
  "next_sequence_index_in_shard",
  "emitted_sequences",
  "emitted_batches",
] as const satisfies readonly (keyof LoaderCursor)[];
const messageBytes = 4096;

export type RingMemory = {
  readonly slots: number;
  readonly rows: number;
  readonly length: number;
  readonly buffer: SharedArrayBuffer;
};

/** Bytes: control and states, cursors, one message, then four i32 arrays a slot. */
const cursorsAt = (slots: number): number => 8 * Math.ceil((4 * (headWords + slots)) / 8);
const messageAt = (slots: number): number => cursorsAt(slots) + 8 * cursorFields.length * slots;
const batchesAt = (slots: number): number => messageAt(slots) + messageBytes;

export function allocateRing(slots: number, rows: number, length: number): RingMemory {
  const buffer = new SharedArrayBuffer(batchesAt(slots) + slots * 16 * rows * length);
  return { slots, rows, length, buffer };
}

/** One side's view of the shared memory. */
export class Ring {
  readonly slots: number;
  readonly #control: Int32Array;
  readonly #cursors: Float64Array;
  readonly #message: Uint8Array;
  readonly #batches: readonly LoadedBatch[];

  constructor({ slots, rows, length, buffer }: RingMemory) {
    this.slots = slots;
    this.#control = new Int32Array(buffer, 0, headWords + slots);
    this.#cursors = new Float64Array(buffer, cursorsAt(slots), cursorFields.length * slots);
    this.#message = new Uint8Array(buffer, messageAt(slots), messageBytes);
    const count = rows * length;
    this.#batches = Array.from({ length: slots }, (_, slot) =>
      emptyBatch(
        rows,
        length,
        [0, 1, 2, 3].map(
          (i) => new Int32Array(buffer, batchesAt(slots) + 16 * count * slot + 4 * count * i, count),
        ),
      ),
    );
  }

  batch(slot: number): LoadedBatch {
    return this.#batches[slot]!;
  }

  state(slot: number): number {
    return Atomics.load(this.#control, headWords + slot);
  }

  setState(slot: number, state: number): void {
    Atomics.store(this.#control, headWords + slot, state);
    Atomics.notify(this.#control, headWords + slot);
  }

  /** Waits while the slot has this state; false when `limitMs` went by. */
  wait(slot: number, state: number, limitMs: number): boolean {
    return Atomics.wait(this.#control, headWords + slot, state, limitMs) !== "timed-out";
  }

  close(): void {
    Atomics.store(this.#control, CLOSING, 1);
    for (let slot = 0; slot < this.slots; slot++) Atomics.notify(this.#control, headWords + slot);
  }

  get closing(): boolean {
    return Atomics.load(this.#control, CLOSING) === 1;
  }

  setCursor(slot: number, cursor: LoaderCursor): void {
    cursorFields.forEach((name, i) => {
      this.#cursors[slot * cursorFields.length + i] = cursor[name];
    });
  }

  cursor(slot: number): LoaderCursor {
    const entries = cursorFields.map(
      (name, i) => [name, this.#cursors[slot * cursorFields.length + i]!] as const,
    );
    return Object.fromEntries(entries) as LoaderCursor;
  }

  /** JSON of at most 4 KiB, read by the other side after the state of a slot says so. */
  setMessage(value: { readonly code: string; readonly message: string }): void {
    const text = JSON.stringify({ ...value, message: value.message.slice(0, 900) });
    this.#message.fill(0).set(new TextEncoder().encode(text).subarray(0, messageBytes));
  }

  message(): { readonly code?: string; readonly message?: string } {
    const end = this.#message.indexOf(0);
    return JSON.parse(new TextDecoder().decode(this.#message.slice(0, end < 0 ? undefined : end)));
  }
}
