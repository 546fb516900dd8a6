/**
 * Token shards, two kinds of file.
 * `psionic`: 48 bytes of header (magic PSIONTOK, version, bytes of a token, sequences, tokens, vocabulary), the length of each
 * sequence as u32, then the tokens as u16 or u32.
 * `golf`: 256 i32 (magic 20240520, version 1, tokens, zeros), then tokens as u16; documents begin with a token of their own.
 * All numbers are little-endian.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { unexpected } from "../../core/error.ts";

export type ShardFormat = "psionic" | "golf";

export type ShardHeader = {
  readonly format: ShardFormat;
  /** Bytes of a token: 2 or 4. */
  readonly width: 2 | 4;
  readonly sequenceCount: number;
  readonly tokenCount: number;
  /** 0 where the file does not say. */
  readonly vocabularySize: number;
  /** Where the lengths and the tokens begin, in bytes. */
  readonly lengthsAt: number;
  readonly tokensAt: number;
};

const magic = new TextEncoder().encode("PSIONTOK");
const headerBytes = 48;
const version = 1;
const golfMagic = 20240520;
const golfHeaderBytes = 1024;
/** Most tokens of a shard: typed arrays and files of 4 GiB. */
export const mostShardTokens = 2 ** 30;

export function shardBytes(
  tokens: Uint16Array | Uint32Array,
  lengths: Uint32Array,
  vocabularySize: number,
): Uint8Array[] {
  const header = new Uint8Array(headerBytes);
  header.set(magic);
  const view = new DataView(header.buffer);
  view.setUint32(8, version, true);
  view.setUint32(12, tokens.BYTES_PER_ELEMENT, true);
  view.setBigUint64(16, BigInt(lengths.length), true);
  view.setBigUint64(24, BigInt(tokens.length), true);
  view.setUint32(32, vocabularySize, true);
  return [header, bytesOf(lengths), bytesOf(tokens)];
}

export function golfShardBytes(tokens: Uint16Array): Uint8Array[] {
  const header = new Int32Array(golfHeaderBytes / 4);
  header.set([golfMagic, version, tokens.length]);
  return [bytesOf(header), bytesOf(tokens)];
}

const bytesOf = (array: Int32Array | Uint16Array | Uint32Array): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

/** Checks a header against the size of its file; everything that does not fit is `file_malformed`. */
export function parseHeader(head: Uint8Array, fileBytes: number, path: string): ShardHeader {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const wrong = (expected: string, got: unknown): Error =>
    unexpected("file_malformed", path, expected, got, {
      fix: "The shard is damaged or was cut off; make it again",
    });
  const isPsionic = head.length >= headerBytes && magic.every((byte, i) => head[i] === byte);
  if (isPsionic) {
    const [stated, width] = [view.getUint32(8, true), view.getUint32(12, true)];
    if (stated !== version) throw wrong(`shard version ${version}`, stated);
    if (width !== 2 && width !== 4) throw wrong("tokens of 2 or 4 bytes", width);
    const [sequenceCount, tokenCount] = [
      Number(view.getBigUint64(16, true)),
      Number(view.getBigUint64(24, true)),
    ];
    if (sequenceCount > mostShardTokens || tokenCount > mostShardTokens)
      throw wrong(`at most ${mostShardTokens} tokens`, Math.max(sequenceCount, tokenCount));
    const tokensAt = headerBytes + 4 * sequenceCount;
    const expected = tokensAt + width * tokenCount;
    if (fileBytes !== expected) throw wrong(`${expected} bytes, as its header says`, fileBytes);
    const vocabularySize = view.getUint32(32, true);
    return {
      format: "psionic",
      width,
      sequenceCount,
      tokenCount,
      vocabularySize,
      lengthsAt: headerBytes,
      tokensAt,
    };
  }
  if (head.length >= golfHeaderBytes && view.getInt32(0, true) === golfMagic) {
    const stated = view.getInt32(4, true);
    if (stated !== version) throw wrong(`shard version ${version}`, stated);
    const tokenCount = view.getInt32(8, true);
    if (tokenCount < 0 || tokenCount > mostShardTokens)
      throw wrong(`0 to ${mostShardTokens} tokens`, tokenCount);
    const expected = golfHeaderBytes + 2 * tokenCount;
    if (fileBytes !== expected) throw wrong(`${expected} bytes, as its header says`, fileBytes);
    const places = { lengthsAt: golfHeaderBytes, tokensAt: golfHeaderBytes };
    return { format: "golf", width: 2, sequenceCount: 1, tokenCount, vocabularySize: 0, ...places };
  }
  throw wrong(
    "a token shard (magic PSIONTOK or 20240520)",
    fileBytes < headerBytes ? `${fileBytes} bytes` : "another file",
  );
}

/** A shard that is open for reading; tokens are read where they are wanted, so a shard may be larger than memory. */
export class ShardFile implements Disposable {
  readonly path: string;
  readonly header: ShardHeader;
  readonly #handle: number;
  #starts: Float64Array | undefined;

  constructor(path: string) {
    this.path = path;
    try {
      this.#handle = openSync(path, "r");
    } catch (cause) {
      throw unexpected("file_not_found", path, "a token shard", "nothing that can be read", { cause });
    }
    try {
      const stat = fstatSync(this.#handle);
      if (!stat.isFile())
        throw unexpected("file_malformed", path, "a token shard", "something that is no file");
      const head = new Uint8Array(Math.min(golfHeaderBytes, stat.size));
      this.#read(head, 0);
      this.header = parseHeader(head, stat.size, path);
    } catch (error) {
      closeSync(this.#handle);
      throw error;
    }
  }

  #read(into: Uint8Array, at: number): void {
    for (let done = 0; done < into.length; ) {
      const count = readSync(this.#handle, into, done, into.length - done, at + done);
      if (count === 0)
        throw unexpected("file_malformed", this.path, "a shard that is not cut off", "its end");
      done += count;
    }
  }

  /** Place of the first token of each sequence, and the end; the sum must be the header's. */
  starts(): Float64Array {
    if (this.#starts) return this.#starts;
    const { format, sequenceCount, tokenCount, lengthsAt } = this.header;
    const lengths = format === "golf" ? Uint32Array.of(tokenCount) : new Uint32Array(sequenceCount);
    if (format === "psionic") this.#read(bytesOf(lengths), lengthsAt);
    const starts = new Float64Array(lengths.length + 1);
    for (const [i, length] of tokenCount === 0 ? [] : lengths.entries()) {
      if (length === 0)
        throw unexpected(
          "file_malformed",
          this.path,
          "sequences of at least one token",
          `sequence ${i} of none`,
        );
      starts[i + 1] = starts[i]! + length;
    }
    if (starts[lengths.length] !== tokenCount)
      throw unexpected(
        "file_malformed",
        this.path,
        `lengths that add up to ${tokenCount}`,
        starts[lengths.length],
      );
    this.#starts = starts;
    return starts;
  }

  /** Copies tokens [from, from + count) to `into[at ..]`. */
  copy(from: number, count: number, into: Int32Array, at: number): void {
    const { width, tokenCount, tokensAt } = this.header;
    if (from < 0 || count < 0 || from + count > tokenCount)
      throw unexpected(
        "invalid_argument",
        this.path,
        `places below ${tokenCount}`,
        `${from} to ${from + count}`,
      );
    const raw = width === 2 ? new Uint16Array(count) : new Uint32Array(count);
    this.#read(bytesOf(raw), tokensAt + width * from);
    into.set(raw, at);
  }

  [Symbol.dispose](): void {
    closeSync(this.#handle);
  }
}
