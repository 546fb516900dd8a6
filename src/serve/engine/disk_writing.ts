import type { BlockName } from "../prefix_store/block.ts";
import { StoreCounters } from "../prefix_store/counters.ts";
import type { WriterMessage } from "../prefix_store/writer.ts";

/** The writing thread as the engine's sees it. */
export class BlockWriter {
  readonly counts = new StoreCounters();
  private readonly folder: string;
  private readonly limitBytes: number;
  private worker: Worker | undefined;

  constructor(folder: string, limitBytes: number) {
    this.folder = folder;
    this.limitBytes = limitBytes;
  }

  keep(name: BlockName, bytes: Uint8Array, depth: number, replace: boolean): void {
    const payload = bytes.buffer as ArrayBuffer;
    this.counts.add("pendingBytes", payload.byteLength);
    this.counts.add("pending", 1);
    this.post({ type: "keep", name, payload, depth, replace }, [payload]);
  }

  /** A piece of a block of `total` bytes that begins at its byte `at`; a block's come one after the other. */
  keepPiece(
    name: BlockName,
    bytes: Uint8Array,
    place: Pick<Extract<WriterMessage, { type: "piece" }>, "at" | "total" | "depth" | "replace">,
  ): void {
    const payload = bytes.buffer as ArrayBuffer;
    this.counts.add("pendingBytes", payload.byteLength);
    this.counts.add("pending", 1);
    this.post({ type: "piece", name, payload, ...place }, [payload]);
  }

  /** Looks at blocks, as far as time allows, and removes those that are not what their names say; counts them as rejected. */
  check(names: readonly BlockName[]): void {
    this.counts.add("pending", 1);
    this.counts.add("checking", 1);
    this.post({ type: "check", names });
  }

  get checking(): boolean {
    return this.counts.get("checking") > 0;
  }

  /** Counts blocks as used now. */
  use(names: Extract<WriterMessage, { type: "use" }>["names"]): void {
    this.counts.add("pending", 1);
    this.post({ type: "use", names });
  }

  close(): void {
    this.worker?.terminate();
    this.worker = undefined;
  }

  /** Starts the thread: before there is something to do, so that no request waits for that. */
  open(): void {
    this.worker ??= this.start();
  }

  private post(message: WriterMessage, transfer: Transferable[] = []): void {
    this.open();
    this.worker?.postMessage(message, transfer);
  }

  private start(): Worker {
    // in the executable, extra entry points keep their path below src/ and are named relative to it
    const entry = Bun.isStandaloneExecutable
      ? "./serve/prefix_store/writer.ts"
      : new URL("../prefix_store/writer.ts", import.meta.url);
    const worker = new Worker(entry, { env: process.env as Record<string, string> });
    const { folder, limitBytes, counts } = this;
    worker.postMessage({ type: "open", folder, limitBytes, counters: counts.memory } satisfies WriterMessage);
    return worker;
  }
}
