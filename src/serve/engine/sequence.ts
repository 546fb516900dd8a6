import type { Constraint } from "../grammar/index.ts";
import type { ActiveRequest } from "./active_request.ts";
import { firstKeptPage, pageSize, pagesFor } from "./pages.ts";
import type { Checkpoint, Match, PrefixTree, TreeGroup } from "./prefix_tree.ts";
import type { Sampler } from "./sampler.ts";
import type { StateSlots } from "./state_slots.ts";

/** One choice of a request: its tokens, and the pages it holds while it is active. */
export class Sequence {
  readonly request: ActiveRequest;
  readonly choice: number;
  readonly sampler: Sampler;
  /** What the tokens must keep to, behind those that were generated. */
  readonly constraint: Constraint | undefined;
  private store: Int32Array;
  length: number;
  /** Positions whose keys and values are in the cache. */
  computed = 0;
  /** tables[g][i]: page of group g for positions from i * pageSize, -1 where none is held. */
  tables: Int32Array[] = [];
  /** per group: first logical page held, and one past the last */
  private readonly first: number[] = [];
  private readonly end: number[] = [];
  /** Page boundary whose window is worth recording when prefill passes it: where another prompt parted from this one. */
  branchPage = 0;
  /** Page boundary whose recurrent state is worth keeping when prefill passes it. */
  statePage = 0;
  /** Slot of the recurrent state; -1 while there is none. */
  stateSlot = -1;
  /** The last state that was kept and is not in the prefix tree yet. */
  private kept: Checkpoint | undefined;
  /** The step under way keeps the state at `statePage`. */
  keptInside = false;
  promptDone = false;
  finished = false;

  constructor(request: ActiveRequest, choice: number, sampler: Sampler, constraint?: Constraint) {
    this.request = request;
    this.choice = choice;
    this.sampler = sampler;
    this.constraint = constraint;
    const { prompt, limit } = request;
    this.store = new Int32Array(Math.min(limit, prompt.length + 256));
    this.store.set(prompt);
    this.length = prompt.length;
  }

  /** Prompt and generated tokens; the last generated one is not computed yet. */
  get tokens(): Int32Array {
    return this.store.subarray(0, this.length);
  }

  get generated(): number {
    return this.length - this.request.prompt.length;
  }

  get pending(): number {
    return this.length - this.computed;
  }

  push(token: number): void {
    if (this.length === this.store.length) {
      const grown = new Int32Array(Math.min(this.request.limit, this.length * 2));
      grown.set(this.store);
      this.store = grown;
    }
    this.store[this.length++] = token;
  }

  /** Takes over the pages that a match can go on from, if there is one, and stands at their end. */
  open(groups: readonly TreeGroup[], tree: PrefixTree, match: Match | undefined): void {
    const pages = match?.resumable ?? 0;
    const capacity = pagesFor(this.request.limit);
    this.tables = groups.map(() => new Int32Array(capacity).fill(-1));
    if (match) tree.acquire(match, pages, this.tables);
    groups.forEach((_, g) => {
      const table = this.tables[g]!;
      let first = pages;
      while (first > 0 && table[first - 1]! >= 0) first -= 1;
      this.first[g] = first;
      this.end[g] = pages;
    });
    this.computed = pages * pageSize;
  }

  /** Gets a state slot, with the cached state at the pages that were taken over. */
  openState(states: StateSlots, tree: PrefixTree, match: Match | undefined): void {
    const cached = match ? tree.acquireState(match, match.resumable) : -1;
    // where no other slot is left, the state is taken over in its own
    const moves = cached >= 0 && states.pool.available === 0;
    if (moves) states.pool.release(cached);
    this.stateSlot = states.take(tree);
    if (cached < 0 || moves) return;
    states.copy(cached, this.stateSlot);
    states.pool.release(cached);
  }

  /** Keeps a copy of the state as it is at this page boundary; the one kept before makes room for it. */
  keepState(states: StateSlots, tree: PrefixTree, reserved: number): void {
    const slot = this.kept?.slot ?? states.spare(tree, reserved);
    if (slot < 0) return;
    states.copy(this.stateSlot, slot);
    this.kept = { slot, pages: this.computed / pageSize };
  }

  /** A slot for the state at `statePage`, which a step keeps on its way past it; -1 where none is to be had. */
  keepInside(states: StateSlots, tree: PrefixTree, reserved: number): number {
    const slot = this.kept?.slot ?? states.spare(tree, reserved);
    if (slot < 0) return -1;
    this.kept = { slot, pages: this.statePage };
    this.keptInside = true;
    return slot;
  }

  /** Enters what is computed into the tree: whole pages, and the state that was kept. */
  record(tree: PrefixTree, states: StateSlots | undefined): void {
    const { tenant } = this.request;
    const { kept } = this;
    tree.insert(tenant, this.tokens, Math.floor(this.computed / pageSize), this.tables, kept);
    if (!kept || !states?.pool.isCached(kept.slot)) return;
    states.pool.release(kept.slot);
    this.kept = undefined;
  }

  /** Pages still to be allocated per group before `tokens` more positions can be computed. */
  missing(g: number, tokens: number): number {
    return Math.max(0, pagesFor(this.computed + tokens) - this.end[g]!);
  }

  /** Gets pages for `tokens` more positions; false (with what it got kept) when a pool is exhausted. */
  extend(groups: readonly TreeGroup[], tree: PrefixTree, tokens: number): boolean {
    for (let g = 0; g < groups.length; g++) {
      for (let n = this.missing(g, tokens); n > 0; n--) {
        const page = groups[g]!.pool.allocate(() => tree.evict(g));
        if (page < 0) return false;
        this.tables[g]![this.end[g]!++] = page;
      }
    }
    return true;
  }

  /** Marks `tokens` more positions computed and gives back pages that have left every window. */
  advance(groups: readonly TreeGroup[], tokens: number): void {
    this.computed += tokens;
    groups.forEach(({ window, pool }, g) => {
      const keep = firstKeptPage(window, this.computed);
      const table = this.tables[g]!;
      for (; this.first[g]! < keep; this.first[g]!++) {
        pool.release(table[this.first[g]!]!);
        table[this.first[g]!] = -1;
      }
    });
  }

  /** Gives back every page, the deepest first, so that the root of a path counts as used last, and its states. */
  close(groups: readonly TreeGroup[], states?: StateSlots): void {
    this.tables.forEach((table, g) => {
      for (let i = this.end[g]! - 1; i >= this.first[g]!; i--) groups[g]!.pool.release(table[i]!);
    });
    for (const slot of [this.kept?.slot ?? -1, this.stateSlot]) if (slot >= 0) states!.pool.release(slot);
    this.kept = undefined;
    this.stateSlot = -1;
    this.tables = [];
    this.computed = 0;
  }
}
