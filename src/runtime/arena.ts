import { unexpected } from "../core/error.ts";

/** A position of the stack: which block, how far into it. */
export type ArenaMark = { readonly block: number; readonly offset: number };

type Block = { readonly address: number; readonly bytes: number };

const alignment = 64;
const blockBytes = 32 * 2 ** 20;

/**
 * A stack of temporaries. The same sequence of sizes gives the same addresses once the blocks exist, which is what
 * makes a step replayable.
 */
export class Arena {
  readonly #allocate: (bytes: number) => number;
  readonly #release: (address: number, bytes: number) => void;
  readonly #blocks: Block[] = [];
  #block = 0;
  #offset = 0;
  #used = 0;
  #peak = 0;

  constructor(allocate: (bytes: number) => number, release: (address: number, bytes: number) => void) {
    this.#allocate = allocate;
    this.#release = release;
  }

  get peakBytes(): number {
    return this.#peak;
  }

  mark(): ArenaMark {
    return { block: this.#block, offset: this.#offset };
  }

  reset(mark: ArenaMark): void {
    if (mark.block > this.#block || (mark.block === this.#block && mark.offset > this.#offset)) {
      throw unexpected(
        "invalid_argument",
        "arena",
        "scopes ended in the reverse order of their start",
        "another order",
      );
    }
    this.#block = mark.block;
    this.#offset = mark.offset;
    this.#used = this.#before(mark);
  }

  /** Moves on to a mark that the same sequence of sizes reached before; nowhere when it lies behind. */
  advance(mark: ArenaMark): void {
    if (mark.block < this.#block || (mark.block === this.#block && mark.offset <= this.#offset)) return;
    this.#block = mark.block;
    this.#offset = mark.offset;
    this.#used = this.#before(mark);
  }

  /** Makes the first block one of `bytes` bytes, so that steps known to fit into it never allocate. */
  reserve(bytes: number): void {
    if (this.#blocks.length > 0)
      throw unexpected("invalid_argument", "arena", "a reserve before any use", "one after it");
    this.#blocks.push(this.#newBlock(Math.ceil(bytes / alignment) * alignment));
  }

  #before(mark: ArenaMark): number {
    return this.#blocks.slice(0, mark.block).reduce((sum, b) => sum + b.bytes, 0) + mark.offset;
  }

  /** Address of `bytes` bytes, 64-byte aligned. */
  take(bytes: number): number {
    const size = Math.ceil(Math.max(bytes, 1) / alignment) * alignment;
    for (;;) {
      const block = this.#blocks[this.#block];
      if (!block) this.#blocks.push(this.#newBlock(size));
      else if (this.#offset + size <= block.bytes) break;
      else {
        this.#used += block.bytes - this.#offset;
        this.#block++;
        this.#offset = 0;
      }
    }
    const address = this.#blocks[this.#block]!.address + this.#offset;
    this.#offset += size;
    this.#used += size;
    this.#peak = Math.max(this.#peak, this.#used);
    return address;
  }

  #newBlock(size: number): Block {
    const bytes = Math.max(size, blockBytes);
    return { address: this.#allocate(bytes), bytes };
  }

  /** Gives all blocks back; only when no scope is open. */
  free(): void {
    for (const block of this.#blocks) this.#release(block.address, block.bytes);
    this.#blocks.length = 0;
    this.#block = 0;
    this.#offset = 0;
    this.#used = 0;
  }
}
