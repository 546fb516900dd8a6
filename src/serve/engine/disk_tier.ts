import { closeSync, openSync, readSync, rmSync } from "node:fs";
import { join } from "node:path";
import { nextAddress, rootAddress, type StoreFacts } from "../prefix_store/address.ts";
import { type BlockName, blockFault, blockFile, headerBytes, statePart } from "../prefix_store/block.ts";
import { exists } from "../prefix_store/files.ts";
import type { CacheMemory } from "./cache_memory.ts";
import { BlockWriter } from "./disk_writing.ts";
import { pageSize, windowPages } from "./pages.ts";
import type { CachedPage, PrefixTree, TreeGroup } from "./prefix_tree.ts";
import type { StateSlots } from "./state_slots.ts";

export type DiskTierOptions = {
  readonly folder: string;
  readonly limitBytes: number;
  /** All but the model's digest, which may be known later. */
  readonly facts: Omit<StoreFacts, "model">;
  readonly warn: (message: string) => void;
};

type Cache = {
  readonly groups: readonly TreeGroup[];
  readonly tree: PrefixTree;
  readonly states: StateSlots | undefined;
  readonly memory: CacheMemory;
};

/** A prefix whose pages wait to be written. */
type SaveJob = {
  readonly tenant: string;
  readonly tokens: Int32Array;
  readonly nodes: readonly CachedPage[];
  /** The next page, and the address of the one before it. */
  at: number;
  address: string;
  /** A state in pieces: its slot, and what has been copied. */
  state?: { readonly slot: number; readonly bytes: Uint8Array; copied: number };
};

/** A prefix that is being read. */
type Restore = {
  readonly tenant: string;
  readonly tokens: Int32Array;
  readonly addresses: readonly string[];
  /** Pages up to which the prefix is to be had again. */
  readonly end: number;
  /** per group: first page to read */
  readonly from: readonly number[];
  at: number;
  /** The page before the next one, and the last but one. */
  before: CachedPage | undefined;
  beforeLast: CachedPage | undefined;
  pagesRead: number;
  state?: { readonly slot: number; readonly bytes: Uint8Array; readonly file: number; copied: number };
};

/** What is copied or read between two looks at the clock. */
const pieceBytes = 4 * 2 ** 20;
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
  private readonly options: DiskTierOptions;
  private readonly cache: Cache;
  private readonly writer: BlockWriter;
  private facts: StoreFacts | undefined;
  private jobs: SaveJob[] = [];
  private restoring: Restore | undefined;
  /** Blocks that were read, of which the writer is told when there is time. */
  private used: (BlockName & { readonly depth: number })[] = [];
  private readonly broken = new Set<string>();
  private failures = 0;
  hits = 0;
  cachedTokens = 0;
  readBytes = 0;
  rejected = 0;

  constructor(options: DiskTierOptions, cache: Cache) {
    this.options = options;
    this.cache = cache;
    this.writer = new BlockWriter(options.folder, options.limitBytes);
  }

  /** The model's content is known: from now on files are read and written. */
  open(model: string): void {
    this.facts = { ...this.options.facts, model };
  }

  /** Whether something waits to be copied, or to be written. */
  get busy(): boolean {
    return (this.facts !== undefined && this.jobs.length > 0) || this.writer.counts.get("pending") > 0;
  }

  get stats() {
    const { hits, cachedTokens, readBytes, rejected, writer } = this;
    return {
      ...{ diskHits: hits, diskCachedTokens: cachedTokens, diskReadBytes: readBytes, diskRejected: rejected },
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
  advance(): boolean {
    this.reportFailures();
    if (this.used.length > 0) this.writer.use(this.used.splice(0));
    const [job] = this.jobs;
    if (!this.facts || !job || this.writer.counts.get("pendingBytes") > mostPendingBytes) return false;
    let copied = 0;
    while (copied < pieceBytes) {
      const bytes = this.copyNext(job, this.facts);
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
      if (this.jobs.length === 0 || !this.facts) break;
      this.writer.counts.waitForWrites(1000);
    }
    if (!this.writer.counts.waitForWrites(Math.max(0, end - performance.now())))
      this.options.warn("The prefix cache's files were not all written before the end");
    this.reportFailures();
    this.writer.close();
  }

  /** Removes the files of a prompt's pages. */
  forget(tenant: string, tokens: Int32Array): void {
    if (!this.facts) return;
    const { groups, states } = this.cache;
    for (const address of this.addresses(tenant, tokens, Math.floor(tokens.length / pageSize))) {
      const parts = [...groups.keys(), ...(states ? [statePart] : [])];
      for (const part of parts) rmSync(this.path({ address, part }), { force: true });
    }
  }

  /**
   * Reads what the files have of a prompt beyond the tree, at most `limit` pages, for about `budgetMs`; true when that is
   * done. To be called again with the same tokens until then.
   */
  warm(tenant: string, tokens: Int32Array, limit: number, reserved: number, budgetMs: number): boolean {
    if (!this.facts) return true;
    let restore = this.restoring;
    if (!restore || restore.tenant !== tenant || restore.tokens !== tokens) {
      this.drop();
      restore = this.find(tenant, tokens, limit);
      if (!restore) return true;
      this.restoring = restore;
    }
    const start = performance.now();
    do {
      if (this.readNext(restore, reserved)) continue;
      this.finish(restore);
      return true;
    } while (performance.now() - start < budgetMs);
    return false;
  }

  /** Leaves a prompt that is being read. */
  drop(): void {
    const { restoring } = this;
    this.restoring = undefined;
    if (!restoring?.state) return;
    closeSync(restoring.state.file);
    this.cache.states!.release(restoring.state.slot);
  }

  private finish(restore: Restore): void {
    this.drop();
    if (restore.pagesRead === 0) return;
    this.hits += 1;
    this.cachedTokens += restore.pagesRead * pageSize;
    const names = restore.addresses
      .slice(0, restore.at)
      .flatMap((address, depth) => this.partsAt(restore, depth).map((part) => ({ address, part, depth })));
    this.used.push(...names);
  }

  private partsAt({ end }: Restore, depth: number): number[] {
    const { groups, states } = this.cache;
    const parts = groups.flatMap(({ window }, g) =>
      window === 0 || depth >= end - windowPages(window) ? [g] : [],
    );
    return states && depth === end - 1 ? [...parts, statePart] : parts;
  }

  /** What the files have beyond the tree; undefined: nothing that would be of use. */
  private find(tenant: string, tokens: Int32Array, limit: number): Restore | undefined {
    const { tree, groups, states } = this.cache;
    const { matched, resumable } = tree.match(tenant, tokens, limit);
    if (resumable >= limit) return undefined;
    const nodes = tree.path(tenant, tokens, limit);
    const addresses: string[] = [];
    const runs = groups.map(() => 0);
    let end = resumable;
    for (const address of this.addresses(tenant, tokens, limit)) {
      const i = addresses.push(address) - 1;
      const has = (g: number) =>
        (nodes[i]?.pages[g] ?? -1) >= 0 ||
        (i >= resumable - windowPages(groups[g]!.window) && this.has(address, g));
      let usable = true;
      let whole = true;
      groups.forEach(({ window }, g) => {
        if (window === 0) {
          whole &&= i < matched || has(g);
          return;
        }
        runs[g] = has(g) ? runs[g]! + 1 : 0;
        usable &&= runs[g]! >= Math.min(i + 1, windowPages(window));
      });
      if (!whole) break;
      if (i < resumable || !usable) continue;
      if (states && (nodes[i]?.state ?? -1) < 0 && !this.has(address, statePart)) continue;
      end = i + 1;
    }
    if (end <= resumable) return undefined;
    const from = groups.map(({ window }) =>
      window === 0 ? matched : Math.max(0, end - windowPages(window)),
    );
    const at = Math.min(...from, end);
    const before = nodes[at - 1];
    return { tenant, tokens, addresses, end, from, at, before, beforeLast: nodes[at - 2], pagesRead: 0 };
  }

  /** Reads the next page, or a piece of the state behind the last; false when there is nothing more to be had. */
  private readNext(restore: Restore, reserved: number): boolean {
    const { tree, groups, states } = this.cache;
    const { tenant, tokens, end, from, at } = restore;
    if (at === end) return states !== undefined && this.readState(restore, reserved);
    const node = tree.after(restore.before, tenant, tokens, at);
    const pages = groups.map(() => -1);
    let good = true;
    groups.forEach(({ pool }, g) => {
      if (!good || at < from[g]! || (node?.pages[g] ?? -1) >= 0) return;
      const page = pool.allocate(() => tree.evict(g));
      pages[g] = page;
      good = page >= 0 && this.readPage({ address: restore.addresses[at]!, part: g }, page);
    });
    const grafted = good ? tree.graft(restore.before, { tenant, tokens, index: at }, pages) : undefined;
    pages.forEach((page, g) => {
      if (page < 0) return;
      if (grafted) grafted.keptParts |= 1 << g;
      groups[g]!.pool.release(page);
    });
    if (!grafted) return false;
    if (pages.some((page) => page >= 0)) restore.pagesRead += 1;
    restore.at += 1;
    restore.beforeLast = restore.before;
    restore.before = grafted;
    return restore.at < end || states !== undefined;
  }

  private readPage(name: BlockName, page: number): boolean {
    const { memory } = this.cache;
    const bytes = memory.pageBytes[name.part]!;
    let file: number;
    try {
      file = openSync(this.path(name), "r");
    } catch {
      // given up since it was found
      return false;
    }
    try {
      const all = new Uint8Array(headerBytes + bytes + 1);
      const length = readSync(file, all, 0, all.length, 0);
      const payload = all.subarray(headerBytes, Math.max(headerBytes, length));
      if (this.refuse(name, blockFault(name, all.subarray(0, length), bytes, payload))) return false;
      memory.writePage(name.part, page, payload);
      this.readBytes += length;
      return true;
    } catch (error) {
      this.refuse(name, error instanceof Error ? error.message : String(error));
      return false;
    } finally {
      closeSync(file);
    }
  }

  /** Reads a piece of the state behind the last page; false when it is whole, or cannot be had. */
  private readState(restore: Restore, reserved: number): boolean {
    const { tree, states, memory } = this.cache;
    const { tenant, tokens, end } = restore;
    const name = { address: restore.addresses[end - 1]!, part: statePart };
    const size = headerBytes + memory.stateBytes;
    if (!restore.state) {
      if (!restore.before || restore.before.state >= 0) return false;
      const slot = states!.spare(tree, reserved);
      if (slot < 0) return false;
      try {
        restore.state = {
          slot,
          bytes: new Uint8Array(size + 1),
          file: openSync(this.path(name), "r"),
          copied: 0,
        };
      } catch {
        // given up since it was found
        states!.release(slot);
        return false;
      }
    }
    const { slot, bytes, file, copied } = restore.state;
    const length = readSync(file, bytes, copied, Math.min(pieceBytes, bytes.length - copied), copied);
    restore.state.copied += length;
    if (length > 0 && restore.state.copied < size) return true;
    const read = bytes.subarray(0, restore.state.copied);
    const payload = read.subarray(headerBytes);
    if (this.refuse(name, blockFault(name, read, memory.stateBytes, payload))) return false;
    memory.writeState(slot, 0, payload);
    this.readBytes += read.length;
    const place = { tenant, tokens, index: end - 1 };
    const node = tree.graft(
      restore.beforeLast,
      place,
      this.cache.groups.map(() => -1),
      slot,
    );
    if (node) node.keptParts |= 1 << this.cache.groups.length;
    return false;
  }

  /** Says once what is wrong with a file; gives whether something is. It is written again when its page is. */
  private refuse(name: BlockName, fault: string | undefined): boolean {
    if (fault === undefined) return false;
    const file = blockFile(name);
    if (!this.broken.has(file)) {
      this.broken.add(file);
      this.rejected += 1;
      this.options.warn(`The prefix cache's file ${this.path(name)} is ignored: ${fault}`);
    }
    return true;
  }

  /** Parts of a node that are not on disk: groups by number, the state as the last. */
  private unsavedParts(node: CachedPage): number[] {
    const { groups, states } = this.cache;
    const parts = groups.flatMap((_, g) => (node.pages[g]! >= 0 && !(node.keptParts & (1 << g)) ? [g] : []));
    if (states && node.state >= 0 && !(node.keptParts & (1 << groups.length))) parts.push(groups.length);
    return parts;
  }

  /** Copies one part of a job and gives its bytes; -1 when the job is done. */
  private copyNext(job: SaveJob, facts: StoreFacts): number {
    const { groups, memory } = this.cache;
    if (job.address === "") job.address = rootAddress(facts, job.tenant);
    const node = job.nodes[job.at];
    if (node) {
      // given up meanwhile: what follows would never be found
      if (groups.some(({ window }, g) => window === 0 && node.pages[g]! < 0)) return -1;
      const here = nextAddress(job.address, pageOf(job.tokens, job.at));
      const [part] = this.unsavedParts(node);
      if (part === groups.length) return this.copyState(job, node, here);
      if (part !== undefined) {
        node.keptParts |= 1 << part;
        return this.keep({ address: here, part }, memory.readPage(part, node.pages[part]!), job.at);
      }
      job.address = here;
      this.used.push(...this.keptNames(node, here, job.at));
      job.at += 1;
      return addressedBytes;
    }
    return -1;
  }

  /** Blocks of a page that are in files: all of a prefix count as used when one of its pages is. */
  private keptNames({ keptParts }: CachedPage, address: string, depth: number) {
    const { length } = this.cache.groups;
    return Array.from({ length: length + 1 }, (_, i) => i).flatMap((i) =>
      keptParts & (1 << i) ? [{ address, part: i === length ? statePart : i, depth }] : [],
    );
  }

  private copyState(job: SaveJob, node: CachedPage, address: string): number {
    const { memory, groups } = this.cache;
    if (job.state?.slot !== node.state)
      job.state = { slot: node.state, bytes: new Uint8Array(memory.stateBytes), copied: 0 };
    const { slot, bytes, copied } = job.state;
    const length = Math.min(pieceBytes, bytes.length - copied);
    bytes.set(memory.readState(slot, copied, length), copied);
    job.state.copied += length;
    if (job.state.copied < bytes.length) return length;
    delete job.state;
    node.keptParts |= 1 << groups.length;
    this.keep({ address, part: statePart }, bytes, job.at);
    return length;
  }

  private keep(name: BlockName, payload: Uint8Array, depth: number): number {
    const replace = this.broken.delete(blockFile(name));
    this.writer.keep(name, payload, depth, replace);
    return payload.length;
  }

  private reportFailures(): void {
    const { counts } = this.writer;
    const failures = counts.get("failed");
    if (failures === this.failures) return;
    if (this.failures === 0) this.options.warn(`The prefix cache could not be written: ${counts.failure}`);
    this.failures = failures;
  }

  private *addresses(tenant: string, tokens: Int32Array, pages: number): Generator<string, void, void> {
    if (!this.facts) return;
    let address = rootAddress(this.facts, tenant);
    for (let i = 0; i < pages; i++) {
      address = nextAddress(address, pageOf(tokens, i));
      yield address;
    }
  }

  private has(address: string, part: number): boolean {
    const name = { address, part };
    return !this.broken.has(blockFile(name)) && exists(this.path(name));
  }

  private path(name: BlockName): string {
    return join(this.options.folder, blockFile(name));
  }
}

function pageOf(tokens: Int32Array, index: number): Int32Array {
  return tokens.subarray(index * pageSize, (index + 1) * pageSize);
}
