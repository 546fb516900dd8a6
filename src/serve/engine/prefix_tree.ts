import { type PagePool, pageSize, windowPages } from "./pages.ts";

/**
 * One page of tokens that follows its parent's. `pages[g]` is the page of cache group g, -1 where not kept; `state` the slot
 * of the recurrent state after the page's last token, likewise.
 */
type Node = {
  readonly parent: Node | undefined;
  readonly key: string;
  /** Of the page; none of a root. */
  readonly tokens: Int32Array;
  readonly children: Map<string, Node>;
  /** The child that was found last: a chat goes the same way again, and comparing tokens takes a tenth of making a key. */
  lastFound: Node | undefined;
  readonly pages: Int32Array;
  state: number;
  /** Which parts of it have been kept on disk, for whoever does that: a bit each. */
  keptParts: number;
  /** What it is called there; empty: not known yet. */
  address: string;
  /** It is not in the tree any more. */
  removed: boolean;
};

/** A node as others see it; it changes when something of it is given up. */
export type CachedPage = Readonly<Node> & Pick<Node, "keptParts" | "address">;

/** What the tree needs to know of a cache group. */
export type TreeGroup = { readonly window: number; readonly pool: PagePool };

/** The logical page table of a sequence: `pages[g][i]` for group g, -1 where the sequence holds none. */
export type PageTables = readonly Int32Array[];

/** A state in a slot that a sequence holds: that after its first `pages` pages. */
export type Checkpoint = { readonly slot: number; readonly pages: number };

export type Match = {
  /** Whether the tenant has any entry. */
  readonly known: boolean;
  /** Pages of equal tokens for which every full-attention page is present. */
  readonly matched: number;
  /** Pages from which a sequence can go on: the window before that point, and the state there, are present too. */
  readonly resumable: number;
  /** The matched pages, as long as the tree stays as it is. */
  readonly path: readonly CachedPage[];
};

/**
 * Cached prefixes as a radix tree whose edges are whole pages of tokens, one root per tenant. Full-attention pages are
 * kept for every node; sliding-window pages only near checkpoints, since they are worth nothing elsewhere. Of a model with
 * recurrent layers a sequence can go on at a node with a state only: those are checkpoints too.
 */
export class PrefixTree {
  private readonly groups: readonly TreeGroup[];
  private readonly full: readonly number[];
  private readonly sliding: readonly number[];
  private readonly roots = new Map<string, Node>();
  /** owners[g][page] = node that knows the page. */
  private readonly owners: (Node | undefined)[][];
  /** Slots of recurrent states; undefined: the model has none. */
  private readonly states: PagePool | undefined;
  /** stateOwners[slot] = node that knows the state in it. */
  private readonly stateOwners: (Node | undefined)[];
  private nodes = 0;

  constructor(groups: readonly TreeGroup[], states?: PagePool) {
    this.groups = groups;
    this.states = states;
    this.stateOwners = new Array<Node | undefined>(states?.count ?? 0).fill(undefined);
    this.full = groups.flatMap((g, i) => (g.window === 0 ? [i] : []));
    this.sliding = groups.flatMap((g, i) => (g.window > 0 ? [i] : []));
    this.owners = groups.map((g) => new Array<Node | undefined>(g.pool.count).fill(undefined));
  }

  get size(): number {
    return this.nodes;
  }

  /** The longest prefix of `tokens` that can be taken over, at most `limit` pages. */
  match(tenant: string, tokens: ArrayLike<number>, limit: number): Match {
    const root = this.roots.get(tenant);
    if (!root) return { known: false, matched: 0, resumable: 0, path: [] };
    const path = this.walk(root, tokens, limit);
    const runs = this.sliding.map(() => 0);
    const needs = this.sliding.map((g) => windowPages(this.groups[g]!.window));
    let resumable = 0;
    path.forEach((node, i) => {
      let usable = !this.states || node.state >= 0;
      this.sliding.forEach((g, s) => {
        runs[s] = node.pages[g]! >= 0 ? runs[s]! + 1 : 0;
        if (runs[s]! < Math.min(i + 1, needs[s]!)) usable = false;
      });
      if (usable) resumable = i + 1;
    });
    return { known: true, matched: path.length, resumable, path };
  }

  /** Adds the caller as a holder of the first `count` pages of a match and writes them into `tables`. */
  acquire({ path }: Pick<Match, "path">, count: number, tables: PageTables): void {
    this.groups.forEach((group, g) => {
      const first = group.window === 0 ? 0 : Math.max(0, count - windowPages(group.window));
      for (let i = first; i < count; i++) {
        const page = path[i]!.pages[g]!;
        group.pool.retain(page);
        tables[g]![i] = page;
      }
    });
  }

  /** Adds the caller as a holder of the state after the first `count` pages of a match; -1 when there is none. */
  acquireState({ path }: Pick<Match, "path">, count: number): number {
    const node = path[count - 1];
    if (!node || node.state < 0) return -1;
    this.states!.retain(node.state);
    return node.state;
  }

  /**
   * Records the first `count` pages of a sequence. Where the tree already has a full-attention page of the same
   * tokens the sequence takes that one and drops its own: kernels give the same bits for the same prefix, and a path
   * whose pages are held from the root down is never evicted in the middle. A checkpoint's slot is taken over where the
   * tree has none for its place; the caller stays its holder.
   */
  insert(
    tenant: string,
    tokens: ArrayLike<number>,
    count: number,
    tables: PageTables,
    checkpoint?: Checkpoint,
  ): void {
    if (count === 0) return;
    let node: Node = this.roots.get(tenant) ?? this.newNode(undefined, tenant);
    this.roots.set(tenant, node);
    for (let i = 0; i < count; i++) {
      let child: Node | undefined = childOf(node, tokens, i);
      if (!child) {
        child = this.newChild(node, tokens, i);
        for (const g of this.full) this.adopt(child, g, tables[g]![i]!);
      } else {
        for (const g of this.full) this.unify(child, g, tables[g]!, i);
      }
      for (const g of this.sliding) {
        const group = this.groups[g]!;
        const kept = i >= count - windowPages(group.window) - 1;
        const page = tables[g]![i]!;
        if (kept && page >= 0 && child.pages[g]! < 0 && !group.pool.isCached(page))
          this.adopt(child, g, page);
      }
      if (checkpoint?.pages === i + 1) this.adoptState(child, checkpoint.slot);
      node = child;
    }
  }

  /** Nodes of the longest known prefix of `tokens`, at most `limit` pages. */
  path(tenant: string, tokens: ArrayLike<number>, limit: number): readonly CachedPage[] {
    const root = this.roots.get(tenant);
    return root ? this.walk(root, tokens, limit) : [];
  }

  /** The page at place `index`, behind `before` (undefined: the first); undefined where the tree has none. */
  after(before: CachedPage | undefined, tenant: string, tokens: ArrayLike<number>, index: number) {
    const parent = (before as Node | undefined) ?? this.roots.get(tenant);
    return parent && (childOf(parent, tokens, index) as CachedPage | undefined);
  }

  /**
   * Adds what the caller holds to the page at place `index`, behind `before` (undefined: the first): pages of some groups
   * (-1 elsewhere) and a state, each taken where the tree has none. A new node needs all full-attention pages. The caller
   * stays their holder. Gives the node, or undefined where there is no place for it.
   */
  graft(
    before: CachedPage | undefined,
    {
      tenant,
      tokens,
      index,
    }: { readonly tenant: string; readonly tokens: ArrayLike<number>; readonly index: number },
    pages: ArrayLike<number>,
    state = -1,
  ): CachedPage | undefined {
    const parent =
      index === 0 ? (this.roots.get(tenant) ?? this.newNode(undefined, tenant)) : (before as Node);
    if (!parent || parent.removed) return undefined;
    let node = childOf(parent, tokens, index);
    if (!node) {
      if (this.full.some((g) => pages[g]! < 0)) return undefined;
      node = this.newChild(parent, tokens, index);
      if (index === 0) this.roots.set(tenant, parent);
    }
    for (let g = 0; g < this.groups.length; g++) {
      if (pages[g]! >= 0 && node.pages[g]! < 0) this.adopt(node, g, pages[g]!);
    }
    if (state >= 0) this.adoptState(node, state);
    return node;
  }

  /** Drops every entry that shares its first page with `tokens`; gives whether there was one. */
  invalidate(tenant: string, tokens: ArrayLike<number>): boolean {
    const root = this.roots.get(tenant);
    if (!root || tokens.length < pageSize) return false;
    const first = childOf(root, tokens, 0);
    if (!first) return false;
    this.dropSubtree(first);
    return true;
  }

  /** Forgets everything of a tenant. */
  dropTenant(tenant: string): void {
    const root = this.roots.get(tenant);
    if (!root) return;
    for (const child of [...root.children.values()]) this.dropSubtree(child);
    this.roots.delete(tenant);
  }

  /** Gives up the least recently used idle page of a group; false when there is none. */
  evict(g: number): boolean {
    const { pool, window } = this.groups[g]!;
    for (let page = pool.oldestIdle(); page >= 0; page = pool.nextIdle(page)) {
      const node = this.owners[g]![page]!;
      if (window > 0) {
        this.disown(node, g);
        if (this.full.length === 0) this.prune(node);
        return true;
      }
      if (node.children.size > 0) continue;
      this.removeLeaf(node);
      return true;
    }
    return false;
  }

  /** Gives up the least recently used state that no sequence holds; false when there is none. */
  evictState(): boolean {
    const slot = this.states?.oldestIdle() ?? -1;
    if (slot < 0) return false;
    const node = this.stateOwners[slot]!;
    this.disownState(node);
    if (this.full.length === 0) this.prune(node);
    return true;
  }

  private walk(root: Node, tokens: ArrayLike<number>, limit: number): Node[] {
    const path: Node[] = [];
    const pages = Math.min(limit, Math.floor(tokens.length / pageSize));
    let node = root;
    for (let i = 0; i < pages; i++) {
      const child = childOf(node, tokens, i);
      if (!child) break;
      path.push(child);
      node = child;
    }
    return path;
  }

  private newChild(parent: Node, tokens: ArrayLike<number>, page: number): Node {
    const key = pageKey(tokens, page);
    const at = page * pageSize;
    const own =
      tokens instanceof Int32Array
        ? tokens.slice(at, at + pageSize)
        : Int32Array.from({ length: pageSize }, (_, i) => tokens[at + i]!);
    const child = this.newNode(parent, key, own);
    parent.children.set(key, child);
    parent.lastFound = child;
    this.nodes += 1;
    return child;
  }

  private newNode(parent: Node | undefined, key: string, tokens = noTokens): Node {
    return {
      parent,
      key,
      tokens,
      children: new Map(),
      lastFound: undefined,
      pages: new Int32Array(this.groups.length).fill(-1),
      state: -1,
      keptParts: 0,
      address: "",
      removed: false,
    };
  }

  private adopt(node: Node, g: number, page: number): void {
    this.groups[g]!.pool.markCached(page);
    node.pages[g] = page;
    this.owners[g]![page] = node;
  }

  private disown(node: Node, g: number): void {
    const page = node.pages[g]!;
    if (page < 0) return;
    node.pages[g] = -1;
    this.owners[g]![page] = undefined;
    this.groups[g]!.pool.forget(page);
  }

  private adoptState(node: Node, slot: number): void {
    if (node.state >= 0 || this.states!.isCached(slot)) return;
    this.states!.markCached(slot);
    node.state = slot;
    this.stateOwners[slot] = node;
  }

  private disownState(node: Node): void {
    const slot = node.state;
    if (slot < 0) return;
    node.state = -1;
    this.stateOwners[slot] = undefined;
    this.states!.forget(slot);
  }

  private unify(node: Node, g: number, table: Int32Array, i: number): void {
    const known = node.pages[g]!;
    const own = table[i]!;
    if (own === known) return;
    const { pool } = this.groups[g]!;
    pool.retain(known);
    pool.release(own);
    table[i] = known;
  }

  private removeLeaf(node: Node): void {
    for (let g = 0; g < this.groups.length; g++) this.disown(node, g);
    this.disownState(node);
    node.removed = true;
    this.nodes -= 1;
    const parent = node.parent!;
    parent.children.delete(node.key);
    if (parent.lastFound === node) parent.lastFound = undefined;
    if (!parent.parent && parent.children.size === 0) this.roots.delete(parent.key);
  }

  /** Without full-attention groups a node is worth keeping while it or one below it has a page. */
  private prune(node: Node): void {
    let current: Node | undefined = node;
    while (current?.parent && current.children.size === 0 && isEmpty(current)) {
      const parent: Node = current.parent;
      this.removeLeaf(current);
      current = parent;
    }
  }

  private dropSubtree(top: Node): void {
    const order: Node[] = [top];
    for (let i = 0; i < order.length; i++) {
      for (const child of order[i]!.children.values()) order.push(child);
    }
    for (const node of order.reverse()) this.removeLeaf(node);
  }
}

function isEmpty({ pages, state }: Node): boolean {
  return state < 0 && pages.every((page) => page < 0);
}

const noTokens = new Int32Array(0);

/** The child whose tokens are those of a page. */
function childOf(parent: Node, tokens: ArrayLike<number>, page: number): Node | undefined {
  const { lastFound } = parent;
  if (lastFound && isPage(lastFound.tokens, tokens, page * pageSize)) return lastFound;
  const child = parent.children.get(pageKey(tokens, page));
  if (child) parent.lastFound = child;
  return child;
}

function isPage(own: Int32Array, tokens: ArrayLike<number>, at: number): boolean {
  for (let i = 0; i < pageSize; i++) if (own[i] !== tokens[at + i]) return false;
  return true;
}

/** A character for each byte of the page's tokens: exact, so different pages never meet under one key. */
function pageKey(tokens: ArrayLike<number>, page: number): string {
  const at = page * pageSize;
  const whole = tokens instanceof Int32Array;
  const own = whole ? tokens : Int32Array.from({ length: pageSize }, (_, i) => tokens[at + i]!);
  const start = own.byteOffset + (whole ? 4 * at : 0);
  return Buffer.from(own.buffer, start, 4 * pageSize).toString("latin1");
}
