/**
 * A small deterministic stand-in for a model in scheduler tests. It keeps one number per position in simulated pages
 * and computes each token's logits from what its page tables reach, so a wrong, freed or foreign page changes the
 * answer, as does a window that is cut short. With state slots it also carries a number along each sequence, so a wrong
 * state, or one of another position, changes the answer too.
 */
import type { Batch, Logits, StepExecutor } from "../batch.ts";
import { pageSize } from "../pages.ts";
import { argmax, logSumExp, topK } from "../select.ts";

export class PagedDouble implements StepExecutor {
  readonly vocabularySize: number;
  readonly pooling = { pooling: "mean", width: 4 } as const;
  steps = 0;
  largestBatch = 0;
  failNext = false;
  copies = 0;
  private readonly windows: readonly number[];
  private readonly memory: Int32Array[];
  /** per slot: what was carried along, and the position that follows */
  private readonly slots: { carried: number; next: number }[];

  constructor(vocabularySize: number, groups: readonly { window: number; pages: number }[], stateSlots = 0) {
    this.vocabularySize = vocabularySize;
    this.windows = groups.map((g) => g.window);
    this.memory = groups.map((g) => new Int32Array(g.pages * pageSize).fill(-7));
    this.slots = Array.from({ length: stateSlots }, () => ({ carried: -9, next: -1 }));
  }

  copyState(from: number, to: number): void {
    this.copies += 1;
    this.slots[to] = { ...this.slots[from]! };
  }

  run(batch: Batch, read: (logits: Logits) => void, meanwhile?: () => void): void {
    meanwhile?.();
    if (this.failNext) {
      this.failNext = false;
      throw new Error("the double was told to fail");
    }
    this.steps += 1;
    this.largestBatch = Math.max(this.largestBatch, batch.tokens.length);
    read(this.results(batch));
  }

  protected results(batch: Batch): Logits {
    const states = this.forward(batch);
    const rows = [...batch.outputRows].map((row) => logitsOf(states[row]!, this.vocabularySize));
    return {
      rows: rows.length,
      argmax: () => Int32Array.from(rows, argmax),
      topK: (k) => rows.map((row) => topK(row, k)),
      logSumExp: () => Float32Array.from(rows, logSumExp),
      copy: (row) => rows[row]!.slice(),
      chosen: () => undefined,
      hidden: () => Float32Array.from([...(batch.hiddenRows ?? [])].flatMap((row) => hiddenOf(states[row]!))),
    };
  }

  protected forward(batch: Batch): number[] {
    const states: number[] = [];
    // writes first, as a kernel does for a whole layer
    for (let t = 0; t < batch.tokens.length; t++) {
      for (let g = 0; g < this.memory.length; g++) {
        const at = this.place(batch, g, t, batch.positions[t]!);
        this.memory[g]![at] = mix(batch.tokens[t]!, batch.positions[t]!);
      }
    }
    for (let t = 0; t < batch.tokens.length; t++) {
      const position = batch.positions[t]!;
      let state = 1;
      for (let g = 0; g < this.memory.length; g++) {
        const window = this.windows[g]!;
        for (let p = window === 0 ? 0 : Math.max(0, position - window + 1); p <= position; p++) {
          state = mix(state, this.memory[g]![this.place(batch, g, t, p)]!);
        }
      }
      states.push(this.slots.length > 0 ? mix(state, this.carry(batch, t)) : state);
    }
    return states;
  }

  private carry(batch: Batch, t: number): number {
    const slot = this.slots[batch.stateSlots![batch.sequences[t]!]!]!;
    const position = batch.positions[t]!;
    if (position === 0) slot.carried = 0;
    else if (slot.next !== position) throw new Error(`a state of position ${slot.next} for ${position}`);
    slot.carried = mix(slot.carried, batch.tokens[t]!);
    slot.next = position + 1;
    return slot.carried;
  }

  private place(batch: Batch, g: number, t: number, position: number): number {
    const entry = batch.sequences[t]! * batch.maxPages + Math.floor(position / pageSize);
    const page = batch.pageTables[g]![entry]!;
    if (page < 0) throw new Error(`group ${g} has no page for position ${position}`);
    return page * pageSize + (position % pageSize);
  }
}

function mix(a: number, b: number): number {
  let h = Math.imul(a ^ (b + 0x7f4a7c15), 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return (h ^ (h >>> 16)) | 0;
}

/** A pretended hidden state of `PagedDouble.pooling`'s width. */
function hiddenOf(state: number): number[] {
  return [state, mix(state, 1), mix(state, 2), mix(state, 3)].map((x) => x / 2 ** 31);
}

function logitsOf(state: number, size: number): Float32Array {
  const row = new Float32Array(size);
  let h = state;
  for (let i = 0; i < size; i++) {
    h = mix(h, i + 1);
    row[i] = (h >>> 8) / 2 ** 21;
  }
  return row;
}
