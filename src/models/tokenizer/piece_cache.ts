/** The ids of a piece; a single id is kept bare, since most pieces are one token. */
export type PieceIds = number | readonly number[];

const GENERATION_ENTRIES = 1 << 16;
/** Longer pieces are rare and would let hostile text fill memory. UTF-16 units. */
const MAX_PIECE_UNITS = 48;

/**
 * Ids of pieces met recently, in two generations: when the young one is full it becomes the old one, whose entries
 * return to the young one when used. At most 2 * 65536 pieces of 48 units.
 */
export class PieceCache {
  #young = new Map<string, PieceIds>();
  #old = new Map<string, PieceIds>();

  get(piece: string): PieceIds | undefined {
    const young = this.#young.get(piece);
    if (young !== undefined) return young;
    const old = this.#old.get(piece);
    if (old !== undefined) this.#store(piece, old);
    return old;
  }

  set(piece: string, ids: PieceIds): void {
    if (piece.length <= MAX_PIECE_UNITS) this.#store(piece, ids);
  }

  #store(piece: string, ids: PieceIds): void {
    if (this.#young.size >= GENERATION_ENTRIES) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    // A slice keeps the whole text it was cut from alive, so the key is a copy.
    this.#young.set(Buffer.from(piece, "utf16le").toString("utf16le"), ids);
  }
}
