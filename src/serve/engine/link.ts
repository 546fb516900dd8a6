import { PsionicError } from "../../core/error.ts";
import { Ring } from "./ring.ts";

/** Shared memory of a link, posted to the worker once; everything else goes through it. */
export type LinkMemory = {
  /** main to worker, worker to main */
  readonly rings: readonly [SharedArrayBuffer, SharedArrayBuffer];
  /** i32 [3]: a counter per side (main, worker) that rises when there is something for that side to look at; announcements */
  readonly bells: SharedArrayBuffer;
};

/** A message is a JSON value, and numbers that would be wasteful as JSON (prompts reach a million tokens). */
export type Message = { readonly body: unknown; readonly numbers: Int32Array };

export type Side = "main" | "worker";

const ringBytes = 2 ** 20;
const noNumbers = new Int32Array(0);
/** Place among the bells; only the worker is told. */
const announced = 2;
/** Looks at a bell between two at the clock. */
const looksPerClock = 100;

export function allocateLink(): LinkMemory {
  return {
    rings: [Ring.allocate(ringBytes), Ring.allocate(ringBytes)],
    bells: new SharedArrayBuffer(12),
  };
}

/**
 * One side of the link. Messages of any length pass: what does not fit in the ring waits here and goes out as the
 * other side reads. Nobody blocks in `send`. A side without work waits on its bell; only for an announced message it spins, and not long.
 */
export class LinkEnd {
  private readonly outgoing: Ring;
  private readonly incoming: Ring;
  private readonly bells: Int32Array;
  private readonly own: number;
  private readonly other: number;
  private readonly waiting: Uint8Array[] = [];
  /** Bytes of waiting[0] that are already in the ring. Numbers wait where they are: who sends some leaves them as they are. */
  private sent = 0;
  private readonly assembler = new FrameAssembler();

  constructor(memory: LinkMemory, side: Side) {
    const [toWorker, toMain] = memory.rings.map((m) => new Ring(m)) as [Ring, Ring];
    this.outgoing = side === "main" ? toWorker : toMain;
    this.incoming = side === "main" ? toMain : toWorker;
    this.bells = new Int32Array(memory.bells);
    this.own = side === "main" ? 0 : 1;
    this.other = 1 - this.own;
  }

  send(body: unknown, numbers: Int32Array = noNumbers): void {
    this.waiting.push(headOf(body, numbers.length));
    if (numbers.length > 0)
      this.waiting.push(new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength));
    this.flush();
  }

  /** Moves waiting bytes into the ring; gives whether all went out. */
  flush(): boolean {
    let moved = false;
    let marked = false;
    while (this.waiting.length > 0) {
      const frame = this.waiting[0]!;
      const n = this.outgoing.write(frame, this.sent);
      this.sent += n;
      moved ||= n > 0;
      if (this.sent === frame.length) {
        this.waiting.shift();
        this.sent = 0;
      } else if (n === 0) {
        // the reader may have made room between the two looks, so look again after marking
        if (marked) break;
        this.outgoing.markFull();
        marked = true;
      }
    }
    if (moved) this.ring(this.other);
    return this.waiting.length === 0;
  }

  /** Messages that have arrived whole. */
  receive(): Message[] {
    const bytes = this.incoming.read();
    if (bytes.length > 0 && this.incoming.takeFull()) this.ring(this.other);
    this.flush();
    return this.assembler.take(bytes);
  }

  /** The bell's count; take it before `receive`, wait with it after. */
  bell(): number {
    return Atomics.load(this.bells, this.own);
  }

  /** Blocks the thread until the bell leaves `seen`; false when the time passed first. */
  waitBlocking(seen: number, timeoutMs = Infinity): boolean {
    return Atomics.wait(this.bells, this.own, seen, timeoutMs) !== "timed-out";
  }

  /** Tells the other side that a message will follow soon: waking up is done by then. */
  announce(): void {
    Atomics.store(this.bells, announced, 1);
    this.ring(this.other);
  }

  /** Whether a message has been announced to this side since it was last asked. */
  takeAnnounced(): boolean {
    return Atomics.exchange(this.bells, announced, 0) === 1;
  }

  /** Spins until the bell leaves `seen`; false when the time passed first. */
  watch(seen: number, mostMs: number): boolean {
    const end = performance.now() + mostMs;
    do {
      for (let i = 0; i < looksPerClock; i++) if (Atomics.load(this.bells, this.own) !== seen) return true;
    } while (performance.now() < end);
    return false;
  }

  /** Resolves when the bell leaves `seen`. */
  async wait(seen: number): Promise<void> {
    const result = Atomics.waitAsync(this.bells, this.own, seen);
    if (result.async) await result.value;
  }

  /** Wakes this side's own waiter. */
  wake(): void {
    this.ring(this.own);
  }

  private ring(side: number): void {
    Atomics.add(this.bells, side, 1);
    Atomics.notify(this.bells, side);
  }
}

const headerBytes = 8;

/** What goes before a message's numbers: [u32 JSON bytes][u32 numbers][JSON, blanks up to a whole word]. */
function headOf(body: unknown, numbers: number): Uint8Array {
  const json = Buffer.from(JSON.stringify(body));
  const head = new Uint8Array(headerBytes + Math.ceil(json.length / 4) * 4).fill(0x20);
  new Uint32Array(head.buffer, 0, 2).set([head.length - headerBytes, numbers]);
  head.set(json, headerBytes);
  return head;
}

/** Cuts a stream of bytes into messages. */
class FrameAssembler {
  private parts: Uint8Array[] = [];
  private held = 0;

  take(bytes: Uint8Array): Message[] {
    if (bytes.length > 0) this.parts.push(bytes);
    this.held += bytes.length;
    const messages: Message[] = [];
    while (this.held >= headerBytes) {
      const header = this.peek(headerBytes);
      const [jsonBytes, numbers] = new Uint32Array(header.slice(0, headerBytes).buffer) as unknown as [
        number,
        number,
      ];
      const total = headerBytes + jsonBytes + numbers * 4;
      if (this.held < total) break;
      messages.push(decode(this.peek(total), jsonBytes, numbers));
      this.drop(total);
    }
    return messages;
  }

  /** The first `n` bytes; joins parts only when those of one message are all there. */
  private peek(n: number): Uint8Array {
    if (this.parts[0]!.length < n) {
      const joined = new Uint8Array(this.held);
      let at = 0;
      for (const part of this.parts) {
        joined.set(part, at);
        at += part.length;
      }
      this.parts = [joined];
    }
    return this.parts[0]!.subarray(0, n);
  }

  private drop(n: number): void {
    this.held -= n;
    const rest = this.parts[0]!.subarray(n);
    if (rest.length > 0) this.parts[0] = rest;
    else this.parts.shift();
  }
}

function decode(frame: Uint8Array, jsonBytes: number, numbers: number): Message {
  const json = new TextDecoder().decode(frame.subarray(headerBytes, headerBytes + jsonBytes));
  const start = frame.byteOffset + headerBytes + jsonBytes;
  // all that is sent is whole words, so numbers lie where a word may
  return { body: JSON.parse(json), numbers: new Int32Array(frame.buffer, start, numbers) };
}

/** An error as plain data. */
export type ErrorRecord = Pick<PsionicError, "code" | "message" | "details">;

export function errorRecord(error: unknown): ErrorRecord {
  if (error instanceof PsionicError)
    return { code: error.code, message: error.message, details: error.details };
  const message = error instanceof Error ? `${error.message}\n${error.stack ?? ""}` : String(error);
  return { code: "internal", message: `[engine] expected no failure, got ${message}`, details: {} };
}

export function errorFrom(record: ErrorRecord): PsionicError {
  return new PsionicError(record.code, record.message, { ...record.details });
}
