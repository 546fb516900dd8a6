/** What a vocabulary is to a grammar: which tokens add which bytes to the text. */
export type TokenBytes = {
  readonly vocabularySize: number;
  readonly tokenBytes: (id: number) => Uint8Array;
  readonly isControl: (id: number) => boolean;
};

/**
 * The text tokens of a vocabulary, sorted by their bytes, as numbers that can travel: [count, bytes, ids.., lengths..,
 * bytes four to a number]. Control tokens and the ids in `marks` are none: no text spells them.
 */
export function packTokens(tokens: TokenBytes, marks: ReadonlySet<number>): Int32Array {
  const texts: { readonly id: number; readonly key: string; readonly bytes: Uint8Array }[] = [];
  let total = 0;
  for (let id = 0; id < tokens.vocabularySize; id++) {
    if (marks.has(id) || tokens.isControl(id)) continue;
    const bytes = tokens.tokenBytes(id);
    if (bytes.length === 0 || bytes.length > longestToken) continue;
    texts.push({
      id,
      key: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1"),
      bytes,
    });
    total += bytes.length;
  }
  texts.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : a.id - b.id));
  const count = texts.length;
  const packed = new Int32Array(2 + 2 * count + Math.ceil(total / 4));
  packed[0] = count;
  packed[1] = total;
  const out = new Uint8Array(packed.buffer, 4 * (2 + 2 * count), total);
  let at = 0;
  texts.forEach(({ id, bytes }, i) => {
    packed[2 + i] = id;
    packed[2 + count + i] = bytes.length;
    out.set(bytes, at);
    at += bytes.length;
  });
  return packed;
}

/** Tokens with more bytes are never chosen under a grammar. */
const longestToken = 250;

/**
 * A tree over the bytes of all text tokens, its nodes in the order of a walk: `end[n]` is the first node behind those below
 * n. A node stands for the bytes from the root to it; the root itself is none.
 */
export class TokenTrie {
  readonly byte: Uint8Array;
  readonly depth: Uint8Array;
  readonly end: Int32Array;
  /** Node above; -1 at depth 1. */
  readonly parent: Int32Array;
  /** Tokens that end at node n are `ids[first[n]..first[n + 1]]`. */
  readonly first: Int32Array;
  readonly ids: Int32Array;
  readonly deepest: number;
  /** Words of 32 tokens in a mask. */
  readonly maskWords: number;
  private readonly rank: Int32Array;
  private readonly starts: Int32Array;
  private readonly lengths: Int32Array;
  private readonly bytes: Uint8Array;
  private nodesOf: readonly Int32Array[] | undefined;

  /** `width`: logits in a row, which may be more than there are tokens. */
  constructor(packed: Int32Array, width: number) {
    const count = packed[0]!;
    const total = packed[1]!;
    const own = packed.slice();
    this.ids = own.subarray(2, 2 + count);
    this.lengths = own.subarray(2 + count, 2 + 2 * count);
    this.bytes = new Uint8Array(own.buffer, 4 * (2 + 2 * count), total);
    this.maskWords = Math.ceil(width / 32);
    this.rank = new Int32Array(width).fill(-1);
    this.starts = new Int32Array(count);
    let at = 0;
    for (let i = 0; i < count; i++) {
      this.rank[this.ids[i]!] = i;
      this.starts[i] = at;
      at += this.lengths[i]!;
    }
    const nodes = this.countNodes();
    this.byte = new Uint8Array(nodes);
    this.depth = new Uint8Array(nodes);
    this.end = new Int32Array(nodes);
    this.parent = new Int32Array(nodes);
    this.first = new Int32Array(nodes + 1);
    this.deepest = this.build();
  }

  get size(): number {
    return this.byte.length;
  }

  /** The bytes of a token; undefined for one that is no text. */
  bytesOf(id: number): Uint8Array | undefined {
    const rank = this.rank[id] ?? -1;
    if (rank < 0) return undefined;
    const start = this.starts[rank]!;
    return this.bytes.subarray(start, start + this.lengths[rank]!);
  }

  /** Nodes whose last byte is this one, in order. */
  nodesWith(byte: number): Int32Array {
    this.nodesOf ??= this.indexBytes();
    return this.nodesOf[byte]!;
  }

  private shared(i: number): number {
    if (i === 0) return 0;
    const [a, b] = [this.starts[i - 1]!, this.starts[i]!];
    const most = Math.min(this.lengths[i - 1]!, this.lengths[i]!);
    let n = 0;
    while (n < most && this.bytes[a + n] === this.bytes[b + n]) n += 1;
    return n;
  }

  private countNodes(): number {
    let nodes = 0;
    for (let i = 0; i < this.ids.length; i++) nodes += this.lengths[i]! - this.shared(i);
    return nodes;
  }

  private build(): number {
    const count = this.ids.length;
    const path: number[] = [];
    let node = 0;
    let deepest = 0;
    for (let i = 0; i < count; i++) {
      const shared = this.shared(i);
      while (path.length > shared) this.end[path.pop()!] = node;
      const length = this.lengths[i]!;
      for (let n = shared; n < length; n++) {
        this.byte[node] = this.bytes[this.starts[i]! + n]!;
        this.depth[node] = n + 1;
        this.parent[node] = path.at(-1) ?? -1;
        path.push(node);
        node += 1;
      }
      deepest = Math.max(deepest, length);
    }
    while (path.length > 0) this.end[path.pop()!] = node;
    this.first[node] = count;
    // a node comes before those below it, and so do its tokens
    for (let n = 0, last = 0; n < node; n++) {
      this.first[n] = last;
      const length = this.depth[n]!;
      while (last < count && this.lengths[last] === length && this.endsAt(last, n)) last += 1;
    }
    return deepest;
  }

  /** Whether a token has just the bytes of a node of its length. */
  private endsAt(rank: number, node: number): boolean {
    const start = this.starts[rank]!;
    for (let n = node, i = this.depth[node]! - 1; n >= 0; n = this.parent[n]!, i--) {
      if (this.bytes[start + i] !== this.byte[n]) return false;
    }
    return true;
  }

  private indexBytes(): readonly Int32Array[] {
    const counts = new Int32Array(256);
    for (const byte of this.byte) counts[byte]! += 1;
    const lists = Array.from(counts, (count) => new Int32Array(count));
    counts.fill(0);
    for (let n = 0; n < this.byte.length; n++) {
      const byte = this.byte[n]!;
      lists[byte]![counts[byte]!++] = n;
    }
    return lists;
  }
}
