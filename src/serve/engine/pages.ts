import { unexpected } from "../../core/error.ts";
import { pageSize } from "../../models/cache.ts";

export { pageSize };

/** Called when no page is free: makes an idle page free again and says whether it could. */
export type Evict = () => boolean;

const none = -1;

/**
 * Reference-counted pages of one cache group. A page is free, held (by `holders(page)` sequences), or idle: nobody
 * holds it but the prefix tree knows its content. Idle pages stand in order of last use, and the least recently used
 * one is given up first.
 */
export class PagePool {
  readonly count: number;
  private readonly references: Int32Array;
  private readonly cached: Uint8Array;
  private readonly older: Int32Array;
  private readonly newer: Int32Array;
  private readonly free: Int32Array;
  private freeCount: number;
  private oldest = none;
  private newest = none;
  private heldCount = 0;

  constructor(count: number) {
    this.count = count;
    this.references = new Int32Array(count);
    this.cached = new Uint8Array(count);
    this.older = new Int32Array(count).fill(none);
    this.newer = new Int32Array(count).fill(none);
    this.free = Int32Array.from({ length: count }, (_, i) => count - 1 - i);
    this.freeCount = count;
  }

  /** Pages that some sequence holds. */
  get held(): number {
    return this.heldCount;
  }

  /** Pages that hold nothing. */
  get unused(): number {
    return this.freeCount;
  }

  /** Pages that can be had without taking one from a sequence. */
  get available(): number {
    return this.count - this.heldCount;
  }

  /** A page with one holder, or -1 when every page is held. */
  allocate(evict: Evict): number {
    while (this.freeCount === 0) {
      if (!evict()) return none;
    }
    this.freeCount -= 1;
    const page = this.free[this.freeCount]!;
    this.references[page] = 1;
    this.heldCount += 1;
    return page;
  }

  /** Adds a holder to a held or idle page. */
  retain(page: number): void {
    const references = this.references[page];
    if (references === undefined || (references === 0 && !this.cached[page])) {
      throw unexpected("internal", "page pool", "a held or idle page", page);
    }
    if (references === 0) {
      this.unlink(page);
      this.heldCount += 1;
    }
    this.references[page] = references + 1;
  }

  /** Takes a holder away; the last one leaves the page idle when it is cached, free otherwise. */
  release(page: number): void {
    const references = this.references[page];
    if (!references) throw unexpected("internal", "page pool", "a held page", page);
    this.references[page] = references - 1;
    if (references > 1) return;
    this.heldCount -= 1;
    if (this.cached[page]) this.linkNewest(page);
    else this.free[this.freeCount++] = page;
  }

  /** The prefix tree now knows this held page. */
  markCached(page: number): void {
    if (!this.references[page]) throw unexpected("internal", "page pool", "a held page to cache", page);
    this.cached[page] = 1;
  }

  /** The prefix tree forgets this page; it becomes free unless a sequence holds it. */
  forget(page: number): void {
    if (!this.cached[page]) throw unexpected("internal", "page pool", "a cached page", page);
    this.cached[page] = 0;
    if (this.references[page] !== 0) return;
    this.unlink(page);
    this.free[this.freeCount++] = page;
  }

  holders(page: number): number {
    return this.references[page] ?? 0;
  }

  isCached(page: number): boolean {
    return this.cached[page] === 1;
  }

  /** The least recently used idle page, or -1. */
  oldestIdle(): number {
    return this.oldest;
  }

  /** The idle page used next after this one, or -1. */
  nextIdle(page: number): number {
    return this.newer[page]!;
  }

  private linkNewest(page: number): void {
    this.older[page] = this.newest;
    this.newer[page] = none;
    if (this.newest === none) this.oldest = page;
    else this.newer[this.newest] = page;
    this.newest = page;
  }

  private unlink(page: number): void {
    const older = this.older[page]!;
    const newer = this.newer[page]!;
    if (older === none) this.oldest = newer;
    else this.newer[older] = newer;
    if (newer === none) this.newest = older;
    else this.older[newer] = older;
    this.older[page] = none;
    this.newer[page] = none;
  }
}

/** Pages for `tokens` positions. */
export function pagesFor(tokens: number): number {
  return Math.ceil(tokens / pageSize);
}

/** Pages before a page boundary that a window reaches into when the token at that boundary is computed. */
export function windowPages(window: number): number {
  return Math.ceil((window - 1) / pageSize);
}

/**
 * First logical page a sequence at `position` (its next token) must keep in a group. One page more than the window
 * reaches into, so that the sequence can later be resumed both at its last page boundary and at the one before.
 */
export function firstKeptPage(window: number, position: number): number {
  if (window === 0) return 0;
  return Math.max(0, Math.floor(position / pageSize) - windowPages(window) - 1);
}
