/** Reads one batch after another, on the thread that asks; `loader.ts` does the same ahead of time. */
import { unexpected } from "../../core/error.ts";
import { type HostBatch, type Windows, windowsOf } from "../batches.ts";
import { shuffled } from "../random.ts";
import { type OpenDataset, openShard, type Shard, splitNamed } from "../shards/dataset.ts";
import type { ShardFile } from "../shards/shard_file.ts";
import {
  checkContract,
  type LoaderContract,
  type LoaderCursor,
  shardOrder,
  startCursor,
} from "./contract.ts";

/**
 * A batch with the first position that each token sees in its row, as attention takes it: where its document begins; 0
 * everywhere in a stream. Targets are -1 where nothing is to be predicted: at the end of a document, and in padding.
 */
export type LoadedBatch = HostBatch & { readonly first: Int32Array };

export function emptyBatch(rows: number, length: number, buffers?: readonly Int32Array[]): LoadedBatch {
  const [tokens, targets, positions, first] =
    buffers ?? [0, 1, 2, 3].map(() => new Int32Array(rows * length));
  return {
    sequences: rows,
    length,
    tokens: tokens!,
    targets: targets!,
    positions: positions!,
    first: first!,
  };
}

export class BatchReader implements Disposable {
  readonly #dataset: OpenDataset;
  readonly #contract: LoaderContract;
  readonly #shards: readonly Shard[];
  #cursor: LoaderCursor;
  #order: { readonly epoch: number; readonly indices: readonly number[] } | undefined;
  #open: { readonly index: number; readonly file: ShardFile } | undefined;
  #sequences: { readonly key: string; readonly order: Uint32Array } | undefined;
  #span = new Int32Array(0);

  constructor(dataset: OpenDataset, contract: LoaderContract, cursor: LoaderCursor = startCursor) {
    checkContract(dataset, contract);
    this.#dataset = dataset;
    this.#contract = contract;
    this.#shards = splitNamed(dataset, contract.split_name).shards;
    this.#cursor = cursor;
    if (cursor.next_shard_index > this.#shards.length)
      throw unexpected(
        "file_malformed",
        "loader state",
        `a shard below ${this.#shards.length}`,
        cursor.next_shard_index,
      );
  }

  /** Where the next batch begins. */
  get cursor(): LoaderCursor {
    return this.#cursor;
  }

  /** Fills `batch` and says true; false where a single pass is over. */
  next(batch: LoadedBatch): boolean {
    return this.#contract.layout === "stream" ? this.#nextStream(batch) : this.#nextPacked(batch);
  }

  /** The shard in the given place of an epoch's order, open. */
  #shard(epoch: number, place: number): { readonly file: ShardFile; readonly shard: Shard } {
    if (this.#order?.epoch !== epoch) {
      const keys = this.#shards.map(({ shard_key }) => shard_key);
      this.#order = { epoch, indices: shardOrder(keys, this.#contract, epoch) };
    }
    const index = this.#order.indices[place]!;
    const shard = this.#shards[index]!;
    if (this.#open?.index !== index) {
      this.#open?.file[Symbol.dispose]();
      this.#open = undefined;
      this.#open = { index, file: openShard(this.#dataset, shard) };
    }
    return { file: this.#open.file, shard };
  }

  #nextStream(batch: LoadedBatch): boolean {
    const { rows, length, rank, world } = this.#contract;
    const span = rows * length + 1;
    if (this.#span.length !== span) this.#span = new Int32Array(span);
    const begun = this.#cursor;
    // every rank walks over the whole of it and copies its own part
    const part = { from: rank * span, tokens: this.#span };
    if (!this.#take(span * world, part)) {
      this.#cursor = begun;
      return false;
    }
    batch.tokens.set(this.#span.subarray(0, span - 1));
    batch.targets.set(this.#span.subarray(1));
    for (let i = 0; i < rows * length; i++) batch.positions[i] = i % length;
    batch.first.fill(0);
    const { emitted_sequences, emitted_batches } = begun;
    this.#cursor = {
      ...this.#cursor,
      emitted_sequences: emitted_sequences + rows * world,
      emitted_batches: emitted_batches + 1,
    };
    return true;
  }

  /** Moves over `count` tokens and copies those from `part.from` on; false where a single pass has fewer. */
  #take(count: number, part: { readonly from: number; readonly tokens: Int32Array }): boolean {
    let { epoch, next_shard_index: place, next_sequence_index_in_shard: at } = this.#cursor;
    for (let done = 0; done < count; ) {
      if (place >= this.#shards.length) {
        if (this.#contract.mode === "single_pass") return false;
        [epoch, place, at] = [epoch + 1, 0, 0];
      }
      const { file, shard } = this.#shard(epoch, place);
      const here = Math.min(count - done, shard.token_count - at);
      const first = Math.max(done, part.from);
      const last = Math.min(done + here, part.from + part.tokens.length);
      if (first < last) {
        file.copy(at + first - done, last - first, part.tokens, first - part.from);
        this.#checkTokens(part.tokens.subarray(first - part.from, last - part.from), file);
      }
      [done, at] = [done + here, at + here];
      if (at >= shard.token_count) [place, at] = [place + 1, 0];
    }
    this.#cursor = { ...this.#cursor, epoch, next_shard_index: place, next_sequence_index_in_shard: at };
    return true;
  }

  #nextPacked(batch: LoadedBatch): boolean {
    const { rows, length, rank, world, overlong_sequence_posture } = this.#contract;
    let { epoch, next_shard_index: place, next_sequence_index_in_shard: at } = this.#cursor;
    const padding = this.#dataset.eos ?? this.#dataset.bos ?? 0;
    batch.tokens.fill(padding);
    batch.targets.fill(-1);
    batch.positions.fill(0);
    batch.first.fill(0);
    let emitted = 0;
    let row = 0;
    let used = 0;
    // an epoch of nothing but sequences that are dropped would go on for ever
    let fruitless = 0;
    for (;;) {
      if (place >= this.#shards.length) {
        if (this.#contract.mode === "single_pass") break;
        [epoch, place, at] = [epoch + 1, 0, 0];
        if (++fruitless > 1)
          throw unexpected(
            "invalid_request",
            "data loader",
            `a sequence of at most ${length} tokens`,
            "none in the split",
          );
      }
      const { file, shard } = this.#shard(epoch, place);
      if (at >= shard.sequence_count) {
        [place, at] = [place + 1, 0];
        continue;
      }
      const starts = file.starts();
      const index = this.#sequenceOrder(epoch, shard)?.[at] ?? at;
      const [from, count] = [starts[index]!, starts[index + 1]! - starts[index]!];
      if (count > length) {
        if (overlong_sequence_posture === "refuse") {
          const fix = "Use longer rows, or pack the data with this context window";
          throw unexpected("invalid_request", file.path, `sequences of at most ${length} tokens`, count, {
            fix,
          });
        }
        at++;
        continue;
      }
      if (used + count > length) {
        if (row + 1 >= rows * world) break;
        [row, used] = [row + 1, 0];
      }
      const mine = row - rank * rows;
      if (mine >= 0 && mine < rows) this.#place(file, from, count, batch, mine * length, used);
      used += count;
      emitted++;
      fruitless = 0;
      at++;
    }
    if (emitted === 0) return false;
    this.#cursor = {
      ...{ epoch, next_shard_index: place, next_sequence_index_in_shard: at },
      emitted_sequences: this.#cursor.emitted_sequences + emitted,
      emitted_batches: this.#cursor.emitted_batches + 1,
    };
    return true;
  }

  #place(
    file: ShardFile,
    from: number,
    count: number,
    batch: LoadedBatch,
    rowAt: number,
    used: number,
  ): void {
    const at = rowAt + used;
    file.copy(from, count, batch.tokens, at);
    this.#checkTokens(batch.tokens.subarray(at, at + count), file);
    for (let i = 0; i < count; i++) {
      batch.positions[at + i] = i;
      batch.first[at + i] = used;
      if (i + 1 < count) batch.targets[at + i] = batch.tokens[at + i + 1]!;
    }
  }

  /** A token past the vocabulary would be read from memory that is not the model's. */
  #checkTokens(tokens: Int32Array, file: ShardFile): void {
    const size = this.#dataset.tokenizer.vocab_size;
    for (let i = 0; i < tokens.length; i++) {
      if (tokens[i]! >>> 0 < size) continue;
      const fix = "The shard is damaged; psionic data verify says where";
      throw unexpected("file_malformed", file.path, `tokens below ${size}`, tokens[i]! >>> 0, { fix });
    }
  }

  #sequenceOrder(epoch: number, shard: Shard): Uint32Array | undefined {
    const { sequence_ordering, shuffle_seed } = this.#contract;
    if (sequence_ordering === "manifest_order") return undefined;
    const key = `psionic_dataset_sequence_order|${shuffle_seed}|${epoch}|${shard.shard_key}`;
    if (this.#sequences?.key !== key) this.#sequences = { key, order: shuffled(key, shard.sequence_count) };
    return this.#sequences.order;
  }

  [Symbol.dispose](): void {
    this.#open?.file[Symbol.dispose]();
    this.#open = undefined;
  }
}

/** Tokens of a split one after another, as validation reads them: all, or the first `most`. */
export function allTokens(dataset: OpenDataset, split: string, most = Number.POSITIVE_INFINITY): Int32Array {
  const { shards, token_count } = splitNamed(dataset, split);
  const tokens = new Int32Array(Math.min(token_count, most));
  let at = 0;
  for (const shard of shards) {
    if (at >= tokens.length) break;
    const count = Math.min(shard.token_count, tokens.length - at);
    using file = openShard(dataset, shard);
    file.copy(0, count, tokens, at);
    at += count;
  }
  return tokens;
}

/** A split, or its first `most` windows, as windows of `length` tokens and their successors; a rest is left out. */
export function datasetWindows(
  dataset: OpenDataset,
  split: string,
  length: number,
  most = Number.POSITIVE_INFINITY,
): Windows {
  return windowsOf([allTokens(dataset, split, most * length + 1)], length, length);
}
