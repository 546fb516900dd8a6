import { nextAddress, rootAddress, type StoreFacts } from "../prefix_store/address.ts";
import { type BlockName, statePart } from "../prefix_store/block.ts";
import { BlockReaders } from "./disk_fetching.ts";
import { type Caches, DiskReader } from "./disk_reading.ts";
import { pageOf, Shelf, type ShelfOptions } from "./disk_shelf.ts";
import { BlockWriter } from "./disk_writing.ts";
import { pageSize } from "./pages.ts";
import type { CachedPage } from "./prefix_tree.ts";

export type DiskTierOptions = ShelfOptions & { readonly limitBytes: number };

/** A prefix whose pages wait to be written. */
type SaveJob = {
  readonly tenant: string;
  readonly tokens: Int32Array;
  readonly nodes: readonly CachedPage[];
  /** The next page, and the address of the one before it. */
  at: number;
  address: string;
  /** A state in pieces: its slot, and how much of it has been copied. */
  state?: { readonly slot: number; copied: number };
};

/** What is copied between two looks at the clock, and where nothing else runs, so that a request that comes need not wait long. */
const pieceBytes = 4 * 2 ** 20;
const idlePieceBytes = 2 ** 20;
/** What going past a page that is in files counts for among them. */
const addressedBytes = 16 * 1024;
/** Copies that wait for the disk; beyond them copying waits too. */
const mostPendingBytes = 64 * 2 ** 20;
const mostJobs = 256;

/**
 * The prefix cache's pages and states in files, so that they are there after a restart. Turns are written when they end, by
 * a thread of its own; this one only copies. A prompt is looked up before it starts, and what the files have beyond the
 * tree is read into the tree, a piece at a time. What cannot be read, or is not what its name says, counts as absent.
 */
export class DiskTier {
  private readonly cache: Caches;
  private readonly shelf: Shelf;
  private readonly reader: DiskReader;
  private readonly writer: BlockWriter;
  private readonly readers: BlockReaders;
  private jobs: SaveJob[] = [];
  private failures = 0;
  /** Damaged files that have been told of. */
  private told = 0;

  constructor(options: DiskTierOptions, cache: Caches) {
    this.cache = cache;
    this.shelf = new Shelf(options);
    this.readers = new BlockReaders(cache.memory);
    this.reader = new DiskReader(this.shelf, cache, this.readers);
    this.writer = new BlockWriter(options.folder, options.limitBytes);
  }

  /** The model's content is known: from now on files are read and written. */
  open(model: string): void {
    this.shelf.open(model);
    this.writer.open();
    this.readers.open();
  }

  /** `DiskReader.warm` */
  warm(...ask: Parameters<DiskReader["warm"]>): boolean {
    const done = this.reader.warm(...ask);
    const { suspects } = this.reader;
    // before anything of this prompt is written
    if (suspects.length > 0) this.writer.check(suspects.splice(0));
    return done;
  }

  /** `DiskReader.expect` */
  expect(...told: Parameters<DiskReader["expect"]>): void {
    this.reader.expect(...told);
  }

  /** Leaves a prompt that is being read. */
  drop(): void {
    this.reader.drop();
  }

  /** Removes the files of a prompt's pages. */
  forget(tenant: string, tokens: Int32Array): void {
    this.shelf.forget(tenant, tokens, this.cache.groups.length);
  }

  /** Whether something waits to be copied, or to be written. */
  get busy(): boolean {
    return (this.shelf.facts !== undefined && this.jobs.length > 0) || this.writer.counts.get("pending") > 0;
  }

  get stats() {
    const { writer, shelf } = this;
    const { hits, cachedTokens, readBytes } = this.reader;
    return {
      ...{
        diskHits: hits,
        diskCachedTokens: cachedTokens,
        diskReadBytes: readBytes,
        diskRejected: shelf.rejected + writer.counts.get("rejected"),
      },
      diskWrittenBytes: writer.counts.get("writtenBytes"),
      diskStoredBytes: writer.counts.get("storedBytes"),
      diskFailures: writer.counts.get("failed"),
    };
  }

  /** Notes that a turn has ended whose prefix of whole pages the tree knows. */
  save(tenant: string, tokens: Int32Array, pages: number): void {
    const nodes = this.cache.tree.path(tenant, tokens, pages);
    if (nodes.length === 0) return;
    this.jobs.push({ tenant, tokens: tokens.slice(0, pages * pageSize), nodes, at: 0, address: "" });
    if (this.jobs.length > mostJobs) this.jobs.shift();
  }

  /** Copies some megabytes of what waits to be written; false when nothing does, or not now. */
  advance(busy = false): boolean {
    this.reportFailures();
    const { used } = this.reader;
    if (used.length > 0) this.writer.use(used.splice(0));
    const { facts } = this.shelf;
    const [job] = this.jobs;
    if (!facts || !job || this.writer.counts.get("pendingBytes") > mostPendingBytes) return false;
    let copied = 0;
    const most = busy ? pieceBytes : idlePieceBytes;
    while (copied < most) {
      const bytes = this.copyNext(job, facts, most);
      if (bytes < 0) {
        this.jobs = this.jobs.filter((other) => other !== job);
        break;
      }
      copied += bytes;
    }
    return true;
  }

  /** Writes everything that waits, for at most so long. */
  flush(timeoutMs: number): void {
    const end = performance.now() + timeoutMs;
    while (performance.now() < end) {
      if (this.advance()) continue;
      if (this.jobs.length === 0 || !this.shelf.facts) break;
      this.writer.counts.waitForWrites(1000);
    }
    if (!this.writer.counts.waitForWrites(Math.max(0, end - performance.now())))
      this.shelf.warn("The prefix cache's files were not all written before the end");
    this.reportFailures();
    this.writer.close();
    this.readers.close();
  }

  /** Parts of a node that are not on disk: groups by number, the state as the last. */
  private unsavedParts(node: CachedPage): number[] {
    const { groups, states } = this.cache;
    const parts = groups.flatMap((_, g) => (node.pages[g]! >= 0 && !(node.keptParts & (1 << g)) ? [g] : []));
    if (states && node.state >= 0 && !(node.keptParts & (1 << groups.length))) parts.push(groups.length);
    return parts;
  }

  /** Copies one part of a job and gives its bytes; -1 when the job is done. */
  private copyNext(job: SaveJob, facts: StoreFacts, most: number): number {
    const { groups, memory } = this.cache;
    if (job.address === "") job.address = rootAddress(facts, job.tenant);
    const node = job.nodes[job.at];
    if (node) {
      // given up meanwhile: what follows would never be found
      if (groups.some(({ window }, g) => window === 0 && node.pages[g]! < 0)) return -1;
      const here = this.addressOf(node, job);
      const [part] = this.unsavedParts(node);
      if (part === groups.length) return this.copyState(job, node, here, most);
      if (part !== undefined) {
        node.keptParts |= 1 << part;
        return this.keep({ address: here, part }, memory.readPage(part, node.pages[part]!), job.at);
      }
      job.address = here;
      this.reader.used.push(...this.keptNames(node, here, job.at));
      job.at += 1;
      return addressedBytes;
    }
    return -1;
  }

  private addressOf(node: CachedPage, { address, tokens, at }: SaveJob): string {
    if (node.address === "") node.address = nextAddress(address, pageOf(tokens, at));
    return node.address;
  }

  /** Blocks of a page that are in files: all of a prefix count as used when one of its pages is. */
  private keptNames({ keptParts }: CachedPage, address: string, depth: number) {
    const { length } = this.cache.groups;
    return Array.from({ length: length + 1 }, (_, i) => i).flatMap((i) =>
      keptParts & (1 << i) ? [{ address, part: i === length ? statePart : i, depth }] : [],
    );
  }

  private copyState(job: SaveJob, node: CachedPage, address: string, most: number): number {
    const { memory, groups } = this.cache;
    if (job.state?.slot !== node.state) job.state = { slot: node.state, copied: 0 };
    const { slot, copied: at } = job.state;
    const total = memory.stateBytes;
    const length = Math.min(most, total - at);
    const isLast = at + length === total;
    const name = { address, part: statePart };
    const replace = isLast && this.shelf.takeBroken(name);
    // memory for a whole one takes tens of milliseconds to be had, so the writer puts it together
    this.writer.keepPiece(name, memory.readState(slot, at, length), { at, total, depth: job.at, replace });
    job.state.copied += length;
    if (!isLast) return length;
    delete job.state;
    node.keptParts |= 1 << groups.length;
    return length;
  }

  private keep(name: BlockName, payload: Uint8Array, depth: number): number {
    const replace = this.shelf.takeBroken(name);
    this.writer.keep(name, payload, depth, replace);
    return payload.length;
  }

  private reportFailures(): void {
    const { counts } = this.writer;
    this.reportFaults();
    const failures = counts.get("failed");
    if (failures === this.failures) return;
    if (this.failures === 0) this.shelf.warn(`The prefix cache could not be written: ${counts.failure}`);
    this.failures = failures;
  }

  /** Tells in one line of a damaged file and of those that were found with it. */
  private reportFaults(): void {
    const { faults } = this.shelf;
    const [first] = faults;
    if (first === undefined || this.writer.checking) return;
    faults.length = 0;
    const { diskRejected } = this.stats;
    const others = diskRejected - this.told - 1;
    this.told = diskRejected;
    const more = others > 0 ? `; so are ${others} more, found with it` : "";
    this.shelf.warn(`${first}${more}. They are written again with their pages`);
  }
}
