import { closeSync, openSync, readSync } from "node:fs";
import { nextAddress } from "../prefix_store/address.ts";
import { type BlockName, blockFault, headerBytes, statePart } from "../prefix_store/block.ts";
import type { BlockJob } from "../prefix_store/read_ahead.ts";
import type { CacheMemory } from "./cache_memory.ts";
import type { BlockReaders, Fetch, Payload } from "./disk_fetching.ts";
import { pageOf, type Shelf } from "./disk_shelf.ts";
import { pageSize, windowPages } from "./pages.ts";
import type { CachedPage, Match, PrefixTree, TreeGroup } from "./prefix_tree.ts";
import type { StateSlots } from "./state_slots.ts";

/** The caches that pages and states are copied from and to. */
export type Caches = {
  readonly groups: readonly TreeGroup[];
  readonly tree: PrefixTree;
  readonly states: StateSlots | undefined;
  readonly memory: CacheMemory;
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
  state?: RestoredState;
  /** Blocks that other threads read ahead; absent: this one reads them all. */
  readonly fetch: Fetch | undefined;
};

/** A state on its way: `payload` is whole already, or `bytes` are read from a file first. */
type RestoredState = { readonly slot: number; copied: number } & (
  | { readonly payload: Payload }
  | { readonly payload?: undefined; readonly bytes: Uint8Array; readonly file: number }
);

/** What is read of a state between two looks at the clock. */
const pieceBytes = 4 * 2 ** 20;

/** Reads what files have of a prompt into the tree, a piece at a time. */
export class DiskReader {
  private readonly shelf: Shelf;
  private readonly cache: Caches;
  private readonly readers: BlockReaders;
  private restoring: Restore | undefined;
  /** The expected prompt of which files have nothing that the tree has not. */
  private known: Int32Array | undefined;
  private staging = new Uint8Array(0);
  /** Blocks that were read, for the writer to count as used. */
  readonly used: (BlockName & { readonly depth: number })[] = [];
  /** Blocks of a prompt of which one was damaged, for the writer to look at. */
  readonly suspects: BlockName[] = [];
  hits = 0;
  cachedTokens = 0;
  readBytes = 0;

  constructor(shelf: Shelf, cache: Caches, readers: BlockReaders) {
    this.shelf = shelf;
    this.cache = cache;
    this.readers = readers;
  }

  /**
   * Reads what the files have of a prompt beyond the tree, at most `limit` pages, for about `budgetMs`; true when that is
   * done. To be called again with the same tokens until then.
   */
  warm(tenant: string, tokens: Int32Array, limit: number, reserved: number, budgetMs: number): boolean {
    if (!this.shelf.facts) return true;
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

  /** Looks for what follows a prompt's match, so that `warm` need not if that is nothing. */
  expect({ matched, resumable, path }: Match, tokens: Int32Array): void {
    if (this.shelf.facts && resumable === matched && this.endsAt(path, tokens)) this.known = tokens;
  }

  /** Leaves a prompt that is being read. */
  drop(): void {
    const { restoring } = this;
    this.restoring = undefined;
    restoring?.fetch?.cancel();
    if (!restoring?.state) return;
    if (!restoring.state.payload) closeSync(restoring.state.file);
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

  /** Whether a block is not what its name says; then the others of its prompt are not trusted either. */
  private refuse(name: BlockName, fault: string | undefined): boolean {
    if (!this.shelf.refuse(name, fault)) return false;
    const { restoring } = this;
    if (!restoring) return true;
    const { addresses, at, from, tenant, tokens } = restoring;
    const { groups, states, tree } = this.cache;
    addresses.forEach((address, i) => {
      const unread = groups.flatMap((_, g) => (i >= at || i < from[g]! ? [g] : []));
      for (const part of states ? [...unread, statePart] : unread) {
        if (address !== name.address || part !== name.part) this.suspects.push({ address, part });
      }
    });
    // what is in memory is written again, unless its file turns out to be good
    for (const node of tree.path(tenant, tokens, addresses.length)) node.keptParts = 0;
    return true;
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
    const isKnown = this.known === tokens;
    this.known = undefined;
    if (isKnown) return undefined;
    const { tree, groups, states } = this.cache;
    const { matched, resumable, path: nodes } = tree.match(tenant, tokens, limit);
    if (resumable >= limit) return undefined;
    if (resumable === matched && this.endsAt(nodes, tokens)) return undefined;
    const addresses: string[] = [];
    const runs = groups.map(() => 0);
    let end = resumable;
    for (const address of this.shelf.addresses(tenant, tokens, limit, nodes)) {
      const i = addresses.push(address) - 1;
      const has = (g: number) =>
        (nodes[i]?.pages[g] ?? -1) >= 0 ||
        (i >= resumable - windowPages(groups[g]!.window) && this.shelf.has(address, g));
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
      if (states && (nodes[i]?.state ?? -1) < 0 && !this.shelf.has(address, statePart)) continue;
      end = i + 1;
    }
    if (end <= resumable) return undefined;
    const from = groups.map(({ window }) =>
      window === 0 ? matched : Math.max(0, end - windowPages(window)),
    );
    const at = Math.min(...from, end);
    const before = nodes[at - 1];
    const fetch = this.fetch(addresses.slice(0, end), at, from, nodes);
    const place = { tenant, tokens, addresses, end, from, at, before, beforeLast: nodes[at - 2] };
    return { ...place, pagesRead: 0, fetch };
  }

  /** Whether files have no more of a prompt than the tree's nodes, as one look at the page behind them shows. */
  private endsAt(nodes: readonly CachedPage[], tokens: Int32Array): boolean {
    const before = nodes.at(-1)?.address;
    if (!before) return false;
    const address = nextAddress(before, pageOf(tokens, nodes.length));
    return this.cache.groups.some(({ window }, g) => window === 0 && !this.shelf.has(address, g));
  }

  /** Has the blocks from page `at` on read ahead, in the order in which `readNext` wants them. */
  private fetch(
    addresses: readonly string[],
    at: number,
    from: readonly number[],
    nodes: readonly CachedPage[],
  ): Fetch | undefined {
    const { groups, states, memory } = this.cache;
    const job = (address: string, part: number, bytes: number): BlockJob => {
      const name = { address, part };
      return { name, path: this.shelf.path(name), bytes };
    };
    const pages = addresses.flatMap((address, i) =>
      groups.flatMap((_, g) => {
        const wanted = i >= at && i >= from[g]! && (nodes[i]?.pages[g] ?? -1) < 0;
        return wanted ? [job(address, g, memory.pageBytes[g]!)] : [];
      }),
    );
    const last = addresses.length - 1;
    const wantsState = states && (nodes[last]?.state ?? -1) < 0;
    return this.readers.fetch(
      pages,
      wantsState ? job(addresses[last]!, statePart, memory.stateBytes) : undefined,
    );
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
      good = page >= 0 && this.readPage(restore, { address: restore.addresses[at]!, part: g }, page);
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

  /** Memory for one file, used again for the next of its size. */
  private stagingOf(bytes: number): Uint8Array {
    if (this.staging.length !== bytes) this.staging = new Uint8Array(bytes);
    return this.staging;
  }

  private readPage({ fetch }: Restore, name: BlockName, page: number): boolean {
    const { memory } = this.cache;
    const bytes = memory.pageBytes[name.part]!;
    const fetched = fetch?.page(this.shelf.path(name), (payload) => {
      this.readBytes += headerBytes + payload.bytes.length;
      if (memory.pinned && payload.address !== undefined)
        return memory.pinned.sendPage(name.part, page, payload.address);
      memory.writePage(name.part, page, payload.bytes);
      return undefined;
    });
    if (fetched) return true;
    let file: number;
    try {
      file = openSync(this.shelf.path(name), "r");
    } catch {
      // given up since it was found
      return false;
    }
    try {
      const all = this.stagingOf(headerBytes + bytes + 1);
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

  /** Reads or copies a piece of the state behind the last page; false when it is whole, or cannot be had. */
  private readState(restore: Restore, reserved: number): boolean {
    const { memory } = this.cache;
    const name = { address: restore.addresses[restore.end - 1]!, part: statePart };
    restore.state ??= this.openState(restore, name, reserved);
    const { state } = restore;
    if (!state) return false;
    if (state.payload) {
      const { bytes, address } = state.payload;
      if (memory.pinned && address !== undefined) {
        restore.fetch!.holdState(memory.pinned.sendState(state.slot, address));
      } else {
        const piece = bytes.subarray(state.copied, state.copied + pieceBytes);
        memory.writeState(state.slot, state.copied, piece);
        state.copied += piece.length;
        if (state.copied < bytes.length) return true;
      }
      this.readBytes += headerBytes + bytes.length;
    } else {
      const { slot, bytes, file, copied } = state;
      let length: number;
      try {
        length = readSync(file, bytes, copied, Math.min(pieceBytes, bytes.length - copied), copied);
      } catch (error) {
        this.refuse(name, error instanceof Error ? error.message : String(error));
        return false;
      }
      state.copied += length;
      if (length > 0 && state.copied < headerBytes + memory.stateBytes) return true;
      const read = bytes.subarray(0, state.copied);
      const payload = read.subarray(headerBytes);
      if (this.refuse(name, blockFault(name, read, memory.stateBytes, payload))) return false;
      memory.writeState(slot, 0, payload);
      this.readBytes += read.length;
    }
    this.graftState(restore, state.slot);
    return false;
  }

  private openState(restore: Restore, name: BlockName, reserved: number): RestoredState | undefined {
    const { tree, states, memory } = this.cache;
    if (!restore.before || restore.before.state >= 0) return undefined;
    const slot = states!.spare(tree, reserved);
    if (slot < 0) return undefined;
    const path = this.shelf.path(name);
    const payload = restore.fetch?.statePayload(path);
    if (payload) return { slot, payload, copied: 0 };
    try {
      const bytes = new Uint8Array(headerBytes + memory.stateBytes + 1);
      return { slot, bytes, file: openSync(path, "r"), copied: 0 };
    } catch {
      // given up since it was found
      states!.release(slot);
      return undefined;
    }
  }

  private graftState({ tenant, tokens, end, beforeLast }: Restore, slot: number): void {
    const { tree, groups } = this.cache;
    const none = groups.map(() => -1);
    const node = tree.graft(beforeLast, { tenant, tokens, index: end - 1 }, none, slot);
    if (node) node.keptParts |= 1 << groups.length;
  }
}
