/** Cuts token sequences into shards of about the wanted size, each written whole. */
import { join } from "node:path";
import { sha256 } from "../../core/digest.ts";
import { unexpected } from "../../core/error.ts";
import { writeWhole } from "../record.ts";
import { golfShardBytes, mostShardTokens, type ShardFormat, shardBytes } from "./shard_file.ts";

export type WrittenShard = {
  readonly shard_key: string;
  /** File name in the folder of the data set. */
  readonly path: string;
  readonly sha256: string;
  readonly size_bytes: number;
  readonly sequence_count: number;
  readonly token_count: number;
  readonly min_sequence_tokens: number;
  readonly max_sequence_tokens: number;
};

export type ShardOptions = {
  readonly folder: string;
  /** Files are `<name>_<split>_000000.bin`. */
  readonly name: string;
  readonly split: string;
  readonly format: ShardFormat;
  readonly vocabularySize: number;
  /** A shard is closed before it would hold more; `golf` shards hold exactly so many, and sequences go on in the next. */
  readonly shardTokens: number;
};

export class ShardWriter {
  readonly #options: ShardOptions;
  readonly #shards: WrittenShard[] = [];
  #tokens: Uint16Array | Uint32Array;
  #lengths: number[] = [];
  #used = 0;

  constructor(options: ShardOptions) {
    const { format, vocabularySize, shardTokens } = options;
    if (format === "golf" && vocabularySize > 65536) {
      const fix = "Use the psionic format";
      throw unexpected(
        "unsupported",
        "data pack",
        "a vocabulary of at most 65536 for u16 shards",
        vocabularySize,
        { fix },
      );
    }
    if (!(Number.isInteger(shardTokens) && shardTokens >= 1 && shardTokens <= mostShardTokens))
      throw unexpected(
        "invalid_request",
        "data pack",
        `shards of 1 to ${mostShardTokens} tokens`,
        shardTokens,
      );
    this.#options = options;
    this.#tokens = this.#array(Math.min(shardTokens, 1 << 16));
  }

  #array(length: number): Uint16Array | Uint32Array {
    return this.#options.vocabularySize <= 65536 ? new Uint16Array(length) : new Uint32Array(length);
  }

  add(sequence: ArrayLike<number>): void {
    if (sequence.length === 0) return;
    const { format, shardTokens } = this.#options;
    if (format === "golf") {
      for (let from = 0; from < sequence.length; ) {
        const count = Math.min(sequence.length - from, shardTokens - this.#used);
        this.#append(sequence, from, count);
        from += count;
        if (this.#used === shardTokens) this.#flush();
      }
      return;
    }
    if (this.#used > 0 && this.#used + sequence.length > shardTokens) this.#flush();
    this.#append(sequence, 0, sequence.length);
  }

  #append(sequence: ArrayLike<number>, from: number, count: number): void {
    if (this.#used + count > this.#tokens.length) {
      const grown = this.#array(Math.max(2 * this.#tokens.length, this.#used + count));
      grown.set(this.#tokens.subarray(0, this.#used));
      this.#tokens = grown;
    }
    for (let i = 0; i < count; i++) this.#tokens[this.#used + i] = sequence[from + i]!;
    this.#used += count;
    this.#lengths.push(count);
  }

  #flush(): void {
    const { folder, name, split, format, vocabularySize } = this.#options;
    const key = `${name}_${split}_${String(this.#shards.length).padStart(6, "0")}`;
    const tokens = this.#tokens.subarray(0, this.#used);
    const lengths = Uint32Array.from(this.#lengths);
    const parts =
      format === "golf" ? golfShardBytes(tokens as Uint16Array) : shardBytes(tokens, lengths, vocabularySize);
    const whole = Buffer.concat(parts);
    writeWhole(join(folder, `${key}.bin`), [whole]);
    this.#shards.push({
      ...{ shard_key: key, path: `${key}.bin`, sha256: sha256(whole), size_bytes: whole.length },
      ...{ sequence_count: lengths.length, token_count: tokens.length },
      min_sequence_tokens: lengths.reduce((least, n) => Math.min(least, n), Number.MAX_SAFE_INTEGER),
      max_sequence_tokens: lengths.reduce((most, n) => Math.max(most, n), 0),
    });
    this.#used = 0;
    this.#lengths = [];
  }

  /** Writes what is left; all shards in order. */
  finish(): readonly WrittenShard[] {
    if (this.#used > 0) this.#flush();
    return this.#shards;
  }
}
