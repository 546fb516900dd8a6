/**
 * Batches read ahead by a worker of their own. `next` hands out what is ready, so a step never waits for a file unless the
 * disk is slower than training. The same data, contract and state give the same batches.
 */
import { type ErrorCode, PsionicError, unexpected } from "../../core/error.ts";
import type { OpenDataset } from "../shards/dataset.ts";
import {
  checkContract,
  cursorOf,
  type LoaderContract,
  type LoaderCursor,
  type LoaderState,
  loaderState,
  startCursor,
} from "./contract.ts";
import type { LoadedBatch } from "./reader.ts";
import { allocateRing, Ring, slotState } from "./ring.ts";
import type { LoaderStart } from "./worker.ts";

export type LoaderOptions = {
  /** Batches that are held ready, one of them in the caller's hands. */
  readonly ahead?: number;
  /** A batch that takes longer is an error: the worker or its disk is gone. Milliseconds. */
  readonly limitMs?: number;
};

/** A batch that is waited for this long is a stall; the first one after opening, when the worker starts, is not. Milliseconds. */
export const stallMs = 250;

export class BatchLoader implements Disposable {
  readonly #dataset: OpenDataset;
  readonly #contract: LoaderContract;
  readonly #ring: Ring;
  readonly #worker: Worker;
  readonly #limitMs: number;
  #slot = -1;
  #cursor: LoaderCursor;
  #ended = false;
  #closed = false;
  #waitedMs = 0;
  #stalls = 0;

  /** `state`: where an earlier loader stood; absent: the beginning. */
  constructor(dataset: OpenDataset, contract: LoaderContract, state?: unknown, options: LoaderOptions = {}) {
    checkContract(dataset, contract);
    const { ahead = 4, limitMs = 60_000 } = options;
    if (!(Number.isInteger(ahead) && ahead >= 2 && ahead <= 1024))
      throw unexpected("invalid_argument", "data loader", "2 to 1024 batches ahead", ahead);
    this.#dataset = dataset;
    this.#contract = contract;
    this.#limitMs = limitMs;
    this.#cursor = state === undefined ? startCursor : cursorOf(dataset, contract, state);
    const memory = allocateRing(ahead, contract.rows, contract.length);
    this.#ring = new Ring(memory);
    // In the executable, extra entry points keep their path below src/ and are named relative to it.
    const entry = Bun.isStandaloneExecutable
      ? "./data/loader/worker.ts"
      : new URL("./worker.ts", import.meta.url);
    this.#worker = new Worker(entry, { ref: false });
    this.#worker.postMessage({
      folder: dataset.folder,
      manifestDigest: dataset.manifest_digest,
      contract,
      cursor: this.#cursor,
      memory,
    } satisfies LoaderStart);
  }

  /** The next batch, or undefined where a single pass is over. Its arrays are the loader's: they hold until the next call. */
  next(): LoadedBatch | undefined {
    if (this.#closed) throw unexpected("invalid_argument", "data loader", "an open loader", "a closed one");
    if (this.#ended) return undefined;
    if (this.#slot >= 0) this.#ring.setState(this.#slot, slotState.empty);
    const slot = (this.#slot + 1) % this.#ring.slots;
    if (this.#ring.state(slot) === slotState.empty) this.#await(slot);
    const state = this.#ring.state(slot);
    if (state === slotState.failed) throw this.#failure();
    this.#slot = slot;
    this.#cursor = this.#ring.cursor(slot);
    if (state === slotState.full) return this.#ring.batch(slot);
    this.#ended = true;
    return undefined;
  }

  #await(slot: number): void {
    const begun = performance.now();
    while (this.#ring.state(slot) === slotState.empty) {
      const left = this.#limitMs - (performance.now() - begun);
      if (left <= 0) {
        const fix = "The worker that reads ahead ended, or its disk hangs";
        throw unexpected("io_failed", this.#dataset.folder, `a batch within ${this.#limitMs} ms`, "none", {
          fix,
        });
      }
      this.#ring.wait(slot, slotState.empty, left);
    }
    const waited = performance.now() - begun;
    this.#waitedMs += waited;
    if (this.#slot >= 0 && waited >= stallMs) this.#stalls++;
  }

  #failure(): PsionicError {
    const { code, message } = this.#ring.message();
    this.#ended = true;
    return new PsionicError((code ?? "internal") as ErrorCode, message ?? "[data loader] the worker failed");
  }

  /** Where the batch after the last one that was handed out begins, for a checkpoint. */
  get state(): LoaderState {
    return loaderState(this.#dataset, this.#contract, this.#cursor);
  }

  /** Time that `next` has spent waiting: 0 where reading keeps ahead. Milliseconds. */
  get waitedMs(): number {
    return this.#waitedMs;
  }

  /** How often `next` has waited for `stallMs` or longer. */
  get stalls(): number {
    return this.#stalls;
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    this.#ring.close();
    this.#worker.terminate();
  }
}
