/**
 * One direction of the link: a byte pipe in shared memory with one writer thread and one reader thread. Bytes are
 * counted modulo 2^32; `written - read` is what is in the pipe.
 */
export class Ring {
  private readonly control: Int32Array;
  private readonly bytes: Uint8Array;

  constructor(memory: SharedArrayBuffer) {
    this.control = new Int32Array(memory, 0, controlWords);
    this.bytes = new Uint8Array(memory, controlWords * 4);
  }

  /** Memory for a ring of `capacity` bytes, a power of two. */
  static allocate(capacity: number): SharedArrayBuffer {
    return new SharedArrayBuffer(controlWords * 4 + capacity);
  }

  /** Puts in as much of `source` from `from` on as fits; gives how many bytes that was. */
  write(source: Uint8Array, from: number): number {
    const start = Atomics.load(this.control, written);
    const room = this.bytes.length - ((start - Atomics.load(this.control, read)) >>> 0);
    const n = Math.min(room, source.length - from);
    if (n === 0) return 0;
    const at = (start >>> 0) % this.bytes.length;
    const head = Math.min(n, this.bytes.length - at);
    this.bytes.set(source.subarray(from, from + head), at);
    if (head < n) this.bytes.set(source.subarray(from + head, from + n), 0);
    Atomics.store(this.control, written, (start + n) | 0);
    return n;
  }

  /** Takes out everything that is there. */
  read(): Uint8Array {
    const start = Atomics.load(this.control, read);
    const n = (Atomics.load(this.control, written) - start) >>> 0;
    const out = new Uint8Array(n);
    if (n === 0) return out;
    const at = (start >>> 0) % this.bytes.length;
    const head = Math.min(n, this.bytes.length - at);
    out.set(this.bytes.subarray(at, at + head), 0);
    if (head < n) out.set(this.bytes.subarray(0, n - head), head);
    Atomics.store(this.control, read, (start + n) | 0);
    return out;
  }

  /** The writer found the pipe full: the reader is to ring once it has read. Set before trying once more. */
  markFull(): void {
    Atomics.store(this.control, full, 1);
  }

  /** Whether the writer waits for room; asking clears the mark. */
  takeFull(): boolean {
    return Atomics.exchange(this.control, full, 0) === 1;
  }
}

const written = 0;
const read = 1;
const full = 2;
/** A cache line for the counters, so that they do not share one with the data. */
const controlWords = 16;
