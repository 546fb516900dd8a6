import { unexpected } from "../../core/error.ts";
import type { StepExecutor } from "./batch.ts";
import { PagePool } from "./pages.ts";
import type { PrefixTree } from "./prefix_tree.ts";

/**
 * Slots for the states of recurrent layers. Every running sequence holds one; the others hold copies made at page
 * boundaries, which the prefix tree knows as checkpoints and gives up in order of last use.
 */
export class StateSlots {
  readonly pool: PagePool;
  private readonly executor: StepExecutor;

  constructor(count: number, executor: StepExecutor) {
    this.pool = new PagePool(count);
    this.executor = executor;
  }

  copy(from: number, to: number): void {
    this.executor.copyState(from, to);
  }

  /** A slot for a sequence that begins to run. */
  take(tree: PrefixTree): number {
    const slot = this.pool.allocate(() => tree.evictState());
    if (slot < 0)
      throw unexpected("internal", "state slots", "a slot for every running sequence", "none left");
    return slot;
  }

  /** Takes the holder of a slot away. */
  release(slot: number): void {
    this.pool.release(slot);
  }

  /** A slot for a copy, if so many stay for sequences that may begin to run; -1 otherwise. */
  spare(tree: PrefixTree, reserved: number): number {
    if (this.pool.available <= reserved) return -1;
    return this.pool.allocate(() => tree.evictState());
  }
}
