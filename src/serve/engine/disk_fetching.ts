import { headerBytes } from "../prefix_store/block.ts";
import {
  type BlockJob,
  ReadAhead,
  type ReaderMessage,
  type SlotMemory,
  slotStride,
} from "../prefix_store/read_ahead.ts";
import type { CacheMemory, Sent } from "./cache_memory.ts";

/** Threads that read, of which a state, which is one long file, keeps one busy: by then a bus to a device is. */
const threads = Math.min(8, Math.max(4, navigator.hardwareConcurrency >> 1));
/** Pages that are read ahead of the one that is copied to the device, and of those the ones that may be on their way there. */
const slots = 32;
const mostSending = 16;
/** Fewer blocks are read sooner than the threads are told of them. */
const fewest = 4;
/** A disk that does not answer: then the block is asked for again, in the old way. */
const patienceMs = 10_000;

/** A block's payload; `address`: where it lies in pinned memory. */
export type Payload = { readonly bytes: Uint8Array; readonly address: number | undefined };

/** Pinned memory that slots lie in. */
type PinnedSlots = { readonly pages: SlotMemory; readonly state: SlotMemory | undefined };

/** Blocks under way, in the order in which they are wanted, and a state. */
export class Fetch {
  private readonly readers: number;
  private readonly pages: ReadAhead;
  private readonly state: ReadAhead | undefined;
  private readonly jobs: readonly BlockJob[];
  private readonly stateJob: BlockJob | undefined;
  private readonly places: ReadonlyMap<string, number>;
  /** Blocks that are on their way to the device from their slots, the oldest first. */
  private readonly sending: { readonly job: number; readonly sent: Sent }[] = [];
  private stateSent: Sent | undefined;
  /** The next block of the list. */
  private at = 0;

  constructor(
    workers: readonly Worker[],
    jobs: readonly BlockJob[],
    state: BlockJob | undefined,
    pinned?: PinnedSlots,
  ) {
    const room = (list: readonly BlockJob[]) => roomFor(Math.max(0, ...list.map((j) => j.bytes)));
    this.readers = workers.length;
    this.jobs = jobs;
    this.stateJob = state;
    this.pages = ReadAhead.allocate(room(jobs), slots, pinned?.pages);
    this.state = state && ReadAhead.allocate(room([state]), 1, pinned?.state);
    this.places = new Map(jobs.map(({ path }, i) => [path, i]));
    const tell = (worker: Worker, message: ReaderMessage) => worker.postMessage(message);
    if (state && this.state) {
      const { memory } = this.state;
      tell(workers[0]!, { jobs: JSON.stringify([state]), memory, slots: 1, outside: pinned?.state });
    }
    const list = JSON.stringify(jobs);
    // the one that reads the state goes on to pages after it
    for (const worker of [...workers.slice(1), workers[0]!])
      tell(worker, { jobs: list, memory: this.pages.memory, slots, outside: pinned?.pages });
  }

  /**
   * Waits for the block of a path and hands its payload over; false where it cannot be had so, nor those behind it. Where
   * `use` begins a copy from pinned memory it gives what waits for that.
   */
  page(path: string, use: (payload: Payload) => Sent | undefined): boolean {
    const job = this.places.get(path);
    if (job === undefined) return false;
    // those before it that turned out not to be wanted are waited for, too: their slots are to be filled again
    while (this.at <= job) {
      const own = this.at++;
      const block = this.pages.take(own, patienceMs);
      if (!block) {
        this.at = this.jobs.length;
        this.cancel();
        return false;
      }
      const sent = own === job ? use(payloadOf(this.pages, block, own, this.jobs[job]!)) : undefined;
      if (sent) this.sending.push({ job: own, sent });
      else this.pages.release(own);
      if (this.sending.length > mostSending) {
        const oldest = this.sending.shift()!;
        oldest.sent();
        this.pages.release(oldest.job);
      }
      if (own === job) return true;
    }
    return false;
  }

  /** The state's payload, there for as long as this is; undefined where it cannot be had so. */
  statePayload(path: string): Payload | undefined {
    const { state, stateJob } = this;
    if (!state || stateJob?.path !== path) return undefined;
    const block = state.take(0, patienceMs);
    return block && payloadOf(state, block, 0, stateJob);
  }

  /** The state is on its way to the device. */
  holdState(sent: Sent): void {
    this.stateSent = sent;
  }

  /** Nothing more is wanted; what is on its way to the device arrives. */
  cancel(): void {
    this.pages.cancel();
    this.state?.cancel();
    for (const { sent } of this.sending.splice(0)) sent();
    this.stateSent?.();
    this.stateSent = undefined;
  }

  /** Whether no thread will write to the slots any more, once this is cancelled; waits for a block that is being read. */
  left(): boolean {
    return this.pages.left(this.readers, patienceMs) && (this.state?.left(1, patienceMs) ?? true);
  }
}

/** Header, payload, and a byte more than there should be. */
function roomFor(bytes: number): number {
  return headerBytes + bytes + 1;
}

function payloadOf(ahead: ReadAhead, block: Uint8Array, job: number, { bytes }: BlockJob): Payload {
  const address = ahead.address(job);
  return {
    bytes: block.subarray(headerBytes, headerBytes + bytes),
    address: address === undefined ? undefined : address + headerBytes,
  };
}

/** The reading threads as the engine's sees them. */
export class BlockReaders {
  private workers: Worker[] = [];
  private readonly memory: Pick<CacheMemory, "pinned">;
  private readonly pinned: PinnedSlots | undefined;
  /** The last one: its threads may still write to pinned memory. */
  private last: Fetch | undefined;

  /** Takes pinned memory where there is such a thing: before there is something to do, since that takes long. */
  constructor(memory: Pick<CacheMemory, "pageBytes" | "stateBytes" | "pinned">) {
    const { pageBytes, stateBytes, pinned } = memory;
    this.memory = memory;
    if (!pinned) return;
    const take = (bytes: number, count: number): SlotMemory => {
      const slotBytes = slotStride(roomFor(bytes));
      return { address: pinned.allocate(count * slotBytes), slotBytes };
    };
    this.pinned = {
      pages: take(Math.max(...pageBytes), slots),
      state: stateBytes > 0 ? take(stateBytes, 1) : undefined,
    };
  }

  /** Starts the threads: before there is something to do, so that no request waits for that. */
  open(): void {
    if (this.workers.length > 0) return;
    // in the executable, extra entry points keep their path below src/ and are named relative to it
    const entry = Bun.isStandaloneExecutable
      ? "./serve/prefix_store/reader.ts"
      : new URL("../prefix_store/reader.ts", import.meta.url);
    const env = process.env as Record<string, string>;
    this.workers = Array.from({ length: threads }, () => new Worker(entry, { smol: true, env }));
  }

  close(): void {
    const idle = this.settled();
    for (const worker of this.workers) worker.terminate();
    this.workers = [];
    if (!this.pinned || !idle) return;
    const { pages, state } = this.pinned;
    this.memory.pinned?.release(pages.address);
    if (state) this.memory.pinned?.release(state.address);
  }

  /** Begins to read; undefined where that is not worth it, or a disk keeps a thread in memory that is needed. */
  fetch(jobs: readonly BlockJob[], state: BlockJob | undefined): Fetch | undefined {
    if (this.workers.length === 0 || jobs.length < fewest || !this.settled()) return undefined;
    this.last = new Fetch(this.workers, jobs, state, this.pinned);
    return this.last;
  }

  /** Ends the last reading. */
  private settled(): boolean {
    if (!this.last) return true;
    this.last.cancel();
    if (this.pinned && !this.last.left()) return false;
    this.last = undefined;
    return true;
  }
}
