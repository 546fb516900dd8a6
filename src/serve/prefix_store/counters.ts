/** Figures that the writing thread keeps in shared memory: the engine's thread never waits for its messages. */
const fields = [
  "pendingBytes",
  "pending",
  "writtenBlocks",
  "writtenBytes",
  "storedBytes",
  "evicted",
  "checking",
  "rejected",
  "failed",
] as const;

export type StoreCounts = Readonly<Record<(typeof fields)[number], number>>;

const textBytes = 512;

export class StoreCounters {
  readonly memory: SharedArrayBuffer;
  private readonly values: BigInt64Array;
  private readonly bell: Int32Array;
  private readonly text: Uint8Array;

  constructor(memory = new SharedArrayBuffer(8 * fields.length + 8 + textBytes)) {
    this.memory = memory;
    this.values = new BigInt64Array(memory, 0, fields.length);
    this.bell = new Int32Array(memory, 8 * fields.length, 2);
    this.text = new Uint8Array(memory, 8 * fields.length + 8, textBytes);
  }

  get(field: keyof StoreCounts): number {
    return Number(Atomics.load(this.values, fields.indexOf(field)));
  }

  add(field: keyof StoreCounts, count: number): void {
    Atomics.add(this.values, fields.indexOf(field), BigInt(count));
  }

  set(field: keyof StoreCounts, value: number): void {
    Atomics.store(this.values, fields.indexOf(field), BigInt(value));
  }

  /** Wakes whoever waits for a change. */
  ring(): void {
    Atomics.add(this.bell, 0, 1);
    Atomics.notify(this.bell, 0);
  }

  /** Waits until nothing is pending; false when the time passed first. */
  waitForWrites(timeoutMs: number): boolean {
    const end = performance.now() + timeoutMs;
    for (;;) {
      const seen = Atomics.load(this.bell, 0);
      if (this.get("pending") === 0) return true;
      const left = end - performance.now();
      if (left <= 0) return false;
      Atomics.wait(this.bell, 0, seen, left);
    }
  }

  /** The last failure's message, for the engine's thread to report. */
  fail(message: string): void {
    const bytes = new TextEncoder().encode(message).subarray(0, textBytes - 1);
    this.text.fill(0);
    this.text.set(bytes);
    this.add("failed", 1);
  }

  get failure(): string {
    const copy = this.text.slice();
    return new TextDecoder().decode(copy.subarray(0, copy.indexOf(0)));
  }
}
