/** What the texts and their ids may take, in bytes: some eighty conversations of 8,192 tokens. */
const LIMIT_BYTES = 8 << 20;
/** One text may take this part of it, so that a single one does not drive out all others. */
const SHARE = 1 / 4;
/** Shorter texts are encoded in less time than it would take to keep them in order. UTF-16 units. */
const LEAST_UNITS = 128;
/** Of an entry beside its text and ids: the map's slot, two objects. */
const ENTRY_BYTES = 128;

type Entry = { readonly ids: Int32Array; readonly sizeBytes: number };

/**
 * Token ids of texts met before, by the whole text, for one tokenizer and one way to encode: of a conversation that goes on only what
 * is new is encoded. Bounded in bytes; what was used longest ago leaves first.
 */
export class TokenStore {
  private readonly entries = new Map<string, Entry>();
  private readonly limitBytes: number;
  private usedBytes = 0;

  constructor(limitBytes = LIMIT_BYTES) {
    this.limitBytes = limitBytes;
  }

  /** Bytes that the entries take. */
  get sizeBytes(): number {
    return this.usedBytes;
  }

  /** The ids of the text, which must not be written; undefined for a text that is not there. */
  find(text: string): Int32Array | undefined {
    if (text.length < LEAST_UNITS) return undefined;
    const entry = this.entries.get(text);
    if (entry === undefined) return undefined;
    // maps keep the order in which keys were added
    this.entries.delete(text);
    this.entries.set(text, entry);
    return entry.ids;
  }

  /** Keeps the ids `from` and behind as those of the text; `text` must not be a slice, which keeps what it was cut from in memory. */
  add(text: string, ids: readonly number[], from: number): void {
    const sizeBytes = ENTRY_BYTES + 2 * text.length + 4 * (ids.length - from);
    if (text.length < LEAST_UNITS || sizeBytes > this.limitBytes * SHARE || this.entries.has(text)) return;
    const kept = new Int32Array(ids.length - from);
    for (let i = 0; i < kept.length; i++) kept[i] = ids[from + i]!;
    this.entries.set(text, { ids: kept, sizeBytes });
    this.usedBytes += sizeBytes;
    for (const [oldest, entry] of this.entries) {
      if (this.usedBytes <= this.limitBytes) break;
      this.entries.delete(oldest);
      this.usedBytes -= entry.sizeBytes;
    }
  }
}
