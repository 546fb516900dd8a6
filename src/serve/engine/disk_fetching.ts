import { headerBytes } from "../prefix_store/block.ts";
import { type BlockJob, ReadAhead, type ReaderMessage } from "../prefix_store/read_ahead.ts";

/** Threads that read: a state, which is one long file, keeps one of them busy. */
const threads = 4;
/** Pages that are read ahead of the one that is copied to the device. */
const slots = 16;
/** Fewer blocks are read sooner than the threads are told of them. */
const fewest = 4;
/** A disk that does not answer: then the block is asked for again, in the old way. */
const patienceMs = 10_000;

/** Blocks under way, in the order in which they are wanted, and a state. */
export class Fetch {
  private readonly pages: ReadAhead;
  private readonly state: ReadAhead | undefined;
  private readonly jobs: readonly BlockJob[];
  private readonly stateJob: BlockJob | undefined;
  private readonly places: ReadonlyMap<string, number>;
  /** The next block of the list. */
  private at = 0;

  constructor(workers: readonly Worker[], jobs: readonly BlockJob[], state: BlockJob | undefined) {
    const room = (list: readonly BlockJob[]) => headerBytes + Math.max(0, ...list.map((j) => j.bytes)) + 1;
    this.jobs = jobs;
    this.stateJob = state;
    this.pages = ReadAhead.allocate(room(jobs), slots);
    this.state = state && ReadAhead.allocate(room([state]), 1);
    this.places = new Map(jobs.map(({ path }, i) => [path, i]));
    const tell = (worker: Worker, message: ReaderMessage) => worker.postMessage(message);
    if (state && this.state) tell(workers[0]!, { jobs: [state], memory: this.state.memory, slots: 1 });
    for (const worker of state ? workers.slice(1) : workers)
      tell(worker, { jobs, memory: this.pages.memory, slots });
  }

  /** Waits for the block of a path and hands it over whole; false where it cannot be had so, nor those behind it. */
  page(path: string, use: (block: Uint8Array) => void): boolean {
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
      if (own === job) use(block.subarray(0, headerBytes + this.jobs[job]!.bytes));
      this.pages.release(own);
      if (own === job) return true;
    }
    return false;
  }

  /** The state's payload, there for as long as this is; undefined where it cannot be had so. */
  statePayload(path: string): Uint8Array | undefined {
    const { state, stateJob } = this;
    if (!state || stateJob?.path !== path) return undefined;
    return state.take(0, patienceMs)?.subarray(headerBytes, headerBytes + stateJob.bytes);
  }

  cancel(): void {
    this.pages.cancel();
    this.state?.cancel();
  }
}

/** The reading threads as the engine's sees them. */
export class BlockReaders {
  private workers: Worker[] = [];

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
    for (const worker of this.workers) worker.terminate();
    this.workers = [];
  }

  /** Begins to read; undefined where that is not worth it. */
  fetch(jobs: readonly BlockJob[], state: BlockJob | undefined): Fetch | undefined {
    if (this.workers.length === 0 || jobs.length < fewest) return undefined;
    return new Fetch(this.workers, jobs, state);
  }
}
