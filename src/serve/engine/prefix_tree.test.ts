import { describe, expect, test } from "bun:test";
import { PagePool, pageSize } from "./pages.ts";
import { PrefixTree } from "./prefix_tree.ts";

const window = 2 * pageSize;

class Rig {
  readonly pools: PagePool[];
  readonly tree: PrefixTree;

  constructor(fullPages: number, slidingPages: number) {
    this.pools = [new PagePool(fullPages), new PagePool(slidingPages)];
    this.tree = new PrefixTree([
      { window: 0, pool: this.pools[0]! },
      { window, pool: this.pools[1]! },
    ]);
  }

  /** Computes `pages` pages of tokens with every page of both groups held. */
  hold(pages: number): Int32Array[] {
    return this.pools.map((pool, g) =>
      Int32Array.from({ length: pages }, () => pool.allocate(() => this.tree.evict(g))),
    );
  }

  release(tables: readonly Int32Array[]): void {
    tables.forEach((table, g) => {
      for (const page of [...table].reverse()) if (page >= 0) this.pools[g]!.release(page);
    });
  }

  record(tenant: string, tokens: readonly number[]): void {
    const pages = Math.floor(tokens.length / pageSize);
    const tables = this.hold(pages);
    this.tree.insert(tenant, tokens, pages, tables);
    this.release(tables);
  }

  match(tenant: string, tokens: readonly number[]): number[] {
    const { matched, resumable } = this.tree.match(tenant, tokens, 1000);
    return [matched, resumable];
  }
}

/** `pages` pages of one token each, the page's number told apart by `salt`. */
function text(salt: number, pages: number): number[] {
  return Array.from({ length: pages * pageSize }, (_, i) => salt * 100_000 + Math.floor(i / pageSize));
}

describe("prefix tree with recurrent states", () => {
  const pool = new PagePool(12);
  const states = new PagePool(3);
  const tree = new PrefixTree([{ window: 0, pool }], states);
  /** Records `pages` pages with a state after `at` of them, and lets go of everything. */
  const record = (tokens: readonly number[], pages: number, at: number) => {
    const table = Int32Array.from({ length: pages }, () => pool.allocate(() => tree.evict(0)));
    const slot = states.allocate(() => tree.evictState());
    tree.insert("", tokens, pages, [table], { slot, pages: at });
    states.release(slot);
    for (const page of [...table].reverse()) pool.release(page);
  };
  const match = (tokens: readonly number[]) => {
    const { matched, resumable } = tree.match("", tokens, 100);
    return [matched, resumable];
  };

  test("a sequence goes on at the deepest state; a second state of a place is not kept", () => {
    record(text(1, 4), 4, 3);
    expect(match(text(1, 4))).toEqual([4, 3]);
    expect(match(text(1, 2))).toEqual([2, 0]);
    record(text(1, 4), 4, 3);
    expect(states.unused).toBe(2);
    record(text(1, 4), 4, 4);
    expect(match(text(1, 4))).toEqual([4, 4]);
    const slot = tree.acquireState(tree.match("", text(1, 4), 4), 4);
    expect(states.holders(slot)).toBe(1);
    expect(tree.acquireState(tree.match("", text(1, 4), 4), 2)).toBe(-1);
    states.release(slot);
  });

  test("states go in order of last use and leave the pages; pages that go take theirs along", () => {
    record(text(2, 3), 3, 2);
    record(text(3, 2), 2, 2);
    expect(match(text(1, 4))).toEqual([4, 4]);
    expect(match(text(2, 3))).toEqual([3, 2]);
    expect(match(text(3, 2))).toEqual([2, 2]);
    record(text(4, 3), 3, 3);
    expect(match(text(1, 4))).toEqual([4, 0]);
    record(text(5, 3), 3, 3);
    expect(match(text(1, 4))).toEqual([1, 0]);
    expect(match(text(2, 3))).toEqual([3, 0]);
    record(text(6, 4), 4, 4);
    expect(match(text(2, 3))).toEqual([0, 0]);
    tree.dropTenant("");
    expect([states.unused, pool.unused, tree.size]).toEqual([3, 12, 0]);
  });
});

describe("prefix tree", () => {
  test("windows are kept before the end and one page further back only", () => {
    const rig = new Rig(40, 40);
    rig.record("", text(1, 8));
    expect(rig.match("", text(1, 8))).toEqual([8, 8]);
    expect(rig.match("", text(1, 7))).toEqual([7, 7]);
    expect(rig.match("", text(1, 6))).toEqual([6, 0]);
    // 3 sliding pages: two that the window reaches into and one more
    expect(rig.pools[1]!.unused).toBe(37);
  });

  test("the least recently used leaf goes first, never a page in use", () => {
    const rig = new Rig(8, 40);
    rig.record("", text(1, 3));
    rig.record("", text(2, 3));
    const tables = [new Int32Array(3).fill(-1), new Int32Array(3).fill(-1)];
    rig.tree.acquire(rig.tree.match("", text(1, 3), 3), 3, tables);
    const others = rig.hold(5);
    expect(rig.match("", text(1, 3))).toEqual([3, 3]);
    expect(rig.match("", text(2, 3))[0]).toBe(0);
    expect(rig.pools[0]!.allocate(() => rig.tree.evict(0))).toBe(-1);
    rig.release(others);
    rig.release(tables);
    expect(rig.pools[0]!.held + rig.pools[1]!.held).toBe(0);
  });

  test("a leaf goes before its parent", () => {
    const rig = new Rig(6, 40);
    rig.record("", text(1, 6));
    rig.hold(2);
    expect(rig.match("", text(1, 6))[0]).toBe(4);
  });

  test("two sequences with equal tokens end up on the same pages", () => {
    const rig = new Rig(40, 40);
    const [a, b] = [rig.hold(4), rig.hold(4)];
    rig.tree.insert("", text(1, 4), 4, a);
    rig.tree.insert("", text(1, 4), 4, b);
    expect([...b[0]!]).toEqual([...a[0]!]);
    expect(rig.pools[0]!.unused).toBe(36);
    rig.release(a);
    rig.release(b);
    expect(rig.tree.size).toBe(4);
  });

  test("invalidate drops what shares the first page, in this tenant only", () => {
    const rig = new Rig(40, 40);
    rig.record("a", [...text(1, 2), ...text(2, 2)]);
    rig.record("a", [...text(1, 2), ...text(3, 2)]);
    rig.record("a", text(4, 2));
    rig.record("b", text(1, 2));
    expect(rig.tree.invalidate("a", text(1, 1))).toBe(true);
    expect(rig.tree.invalidate("a", text(9, 1))).toBe(false);
    expect(rig.match("a", text(1, 2))[0]).toBe(0);
    expect(rig.match("a", text(4, 2))[0]).toBe(2);
    expect(rig.match("b", text(1, 2))[0]).toBe(2);
    rig.tree.dropTenant("b");
    expect(rig.tree.match("b", text(1, 2), 9).known).toBe(false);
    expect(rig.tree.size).toBe(2);
  });

  test("dropped pages that are in use are freed when they are given back", () => {
    const rig = new Rig(4, 8);
    const tables = rig.hold(2);
    rig.tree.insert("", text(1, 2), 2, tables);
    rig.tree.invalidate("", text(1, 2));
    expect(rig.pools[0]!.held).toBe(2);
    rig.release(tables);
    expect([rig.pools[0]!.unused, rig.pools[1]!.unused]).toEqual([4, 8]);
  });

  test("large token ids do not collide", () => {
    const rig = new Rig(40, 40);
    rig.record("", new Array(pageSize).fill(65_537));
    expect(rig.match("", new Array(pageSize).fill(1))[0]).toBe(0);
    expect(rig.match("", new Array(pageSize).fill(65_537))[0]).toBe(1);
  });
});

describe("page pool", () => {
  test("wrong use is an error, not a corrupted list", () => {
    const pool = new PagePool(2);
    const page = pool.allocate(() => false);
    expect(() => pool.retain(1 - page)).toThrow("page pool");
    expect(() => pool.forget(page)).toThrow("page pool");
    pool.release(page);
    expect(() => pool.release(page)).toThrow("page pool");
    expect(() => pool.markCached(page)).toThrow("page pool");
  });
});
