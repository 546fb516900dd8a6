import { unexpected } from "../../core/error.ts";
import type { ByteSource } from "./bytes.ts";

const FIRST_READ = 1 << 20;
/** A header holds tables of a vocabulary, never weights: beyond this the file is not a sensible model. */
const MAX_HEADER_BYTES = 1 << 29;
const TWO_32 = 2 ** 32;

/** Reads little-endian fields of a header in order, fetching more of the file only as fields are reached. */
export class HeaderCursor {
  position = 0;
  /** The bytes fetched so far, from offset 0. */
  bytes: Uint8Array<ArrayBuffer>;
  view: DataView;
  readonly #source: ByteSource;
  #filled = 0;

  constructor(source: ByteSource) {
    this.#source = source;
    this.bytes = new Uint8Array(Math.min(source.size, FIRST_READ));
    this.view = new DataView(this.bytes.buffer);
    this.#fill(this.bytes.byteLength);
  }

  get path(): string {
    return this.#source.path;
  }

  get remaining(): number {
    return this.#source.size - this.position;
  }

  /** Makes the next `length` bytes available; `what` names the field in the message when the file ends first. */
  ensure(length: number, what: string): void {
    const end = this.position + length;
    if (end <= this.#filled) return;
    if (end > this.#source.size) {
      throw unexpected(
        "file_malformed",
        this.path,
        `${length} bytes for ${what} at offset ${this.position}`,
        `a file of ${this.#source.size} bytes`,
        { fix: "The file is truncated or its header is damaged" },
      );
    }
    if (end > MAX_HEADER_BYTES) {
      throw unexpected(
        "file_malformed",
        this.path,
        `a header of at most ${MAX_HEADER_BYTES} bytes`,
        `${what} ending at ${end}`,
      );
    }
    this.#grow(Math.min(this.#source.size, MAX_HEADER_BYTES, Math.max(end, this.bytes.byteLength * 2)));
  }

  u8(what: string): number {
    this.ensure(1, what);
    return this.view.getUint8(this.position++);
  }

  u32(what: string): number {
    this.ensure(4, what);
    const value = this.view.getUint32(this.position, true);
    this.position += 4;
    return value;
  }

  /** A u64 that must be an exact integer below 2^53. */
  size(what: string): number {
    this.ensure(8, what);
    const low = this.view.getUint32(this.position, true);
    const high = this.view.getUint32(this.position + 4, true);
    if (high > 0x1fffff) {
      const value = this.view.getBigUint64(this.position, true);
      throw unexpected("file_malformed", this.path, `${what} below 2^53`, value);
    }
    this.position += 8;
    return high * TWO_32 + low;
  }

  /** A view of the next `length` bytes, valid until the next read; moves past them. */
  take(length: number, what: string): Uint8Array<ArrayBuffer> {
    this.ensure(length, what);
    const view = this.bytes.subarray(this.position, this.position + length);
    this.position += length;
    return view;
  }

  #grow(capacity: number): void {
    const larger = new Uint8Array(capacity);
    larger.set(this.bytes);
    this.bytes = larger;
    this.view = new DataView(larger.buffer);
    this.#fill(capacity);
  }

  #fill(end: number): void {
    this.#source.read(this.#filled, this.bytes.subarray(this.#filled, end));
    this.#filled = end;
  }
}
