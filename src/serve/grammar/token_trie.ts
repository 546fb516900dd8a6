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
  const ids: number[] = [];
  const texts: Uint8Array[] = [];
  let total = 0;
  for (let id = 0; id < tokens.vocabularySize; id++) {
    if (marks.has(id) || tokens.isControl(id)) continue;
    const bytes = tokens.tokenBytes(id);
    if (bytes.length === 0 || bytes.length > longestToken) continue;
    ids.push(id);
    texts.push(bytes);
    total += bytes.length;
  }
  const order = sortedTexts(texts, total);
  const count = ids.length;
  const packed = new Int32Array(2 + 2 * count + Math.ceil(total / 4));
  packed[0] = count;
  packed[1] = total;
  const out = new Uint8Array(packed.buffer, 4 * (2 + 2 * count), total);
  let at = 0;
  for (let i = 0; i < count; i++) {
    const bytes = texts[order[i]!]!;
    packed[2 + i] = ids[order[i]!]!;
    packed[2 + count + i] = bytes.length;
    out.set(bytes, at);
    at += bytes.length;
  }
  return packed;
}

/** So few are sorted by comparing them. */
const fewTexts = 48;

/** The order of texts by their bytes, earlier ones first among equals: sorted by one byte after the other. */
function sortedTexts(texts: readonly Uint8Array[], total: number): Int32Array {
  const bytes = new Uint8Array(total);
  const starts = new Int32Array(texts.length + 1);
  for (let i = 0, at = 0; i < texts.length; i++) {
    bytes.set(texts[i]!, at);
    at += texts[i]!.length;
    starts[i + 1] = at;
  }
  const order = new Int32Array(texts.length);
  for (let i = 0; i < order.length; i++) order[i] = i;
  const spare = new Int32Array(texts.length);
  // 0: the text ends here; else its next byte and one
  const key = (text: number, depth: number): number => {
    const at = starts[text]! + depth;
    return at < starts[text + 1]! ? bytes[at]! + 1 : 0;
  };
  const isAfter = (a: number, b: number, depth: number): boolean => {
    for (let d = depth; ; d++) {
      const [x, y] = [key(a, d), key(b, d)];
      if (x !== y) return x > y;
      if (x === 0) return a > b;
    }
  };
  const sort = (from: number, to: number, depth: number): void => {
    if (to - from < fewTexts) {
      for (let i = from + 1; i < to; i++) {
        const text = order[i]!;
        let at = i;
        for (; at > from && isAfter(order[at - 1]!, text, depth); at--) order[at] = order[at - 1]!;
        order[at] = text;
      }
      return;
    }
    const ends = new Int32Array(258);
    for (let i = from; i < to; i++) ends[key(order[i]!, depth) + 1]! += 1;
    for (let k = 1; k < 258; k++) ends[k]! += ends[k - 1]!;
    spare.set(order.subarray(from, to), from);
    const places = ends.slice();
    for (let i = from; i < to; i++) {
      const text = spare[i]!;
      order[from + places[key(text, depth)]!++] = text;
    }
    for (let k = 1; k < 257; k++) {
      if (ends[k + 1]! - ends[k]! > 1) sort(from + ends[k]!, from + ends[k + 1]!, depth + 1);
    }
  };
  sort(0, order.length, 0);
  return order;
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
    const shared = this.sharedLengths();
    let nodes = 0;
    for (let i = 0; i < count; i++) nodes += this.lengths[i]! - shared[i]!;
    this.byte = new Uint8Array(nodes);
    this.depth = new Uint8Array(nodes);
    this.end = new Int32Array(nodes);
    this.parent = new Int32Array(nodes);
    this.first = new Int32Array(nodes + 1);
    this.deepest = this.build(shared);
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

  /** Bytes that each token shares with the one before it. */
  private sharedLengths(): Uint8Array {
    const { bytes, starts, lengths } = this;
    const shared = new Uint8Array(starts.length);
    for (let i = 1; i < starts.length; i++) {
      const [a, b] = [starts[i - 1]!, starts[i]!];
      const most = Math.min(lengths[i - 1]!, lengths[i]!);
      let n = 0;
      while (n < most && bytes[a + n] === bytes[b + n]) n += 1;
      shared[i] = n;
    }
    return shared;
  }

  private build(shared: Uint8Array): number {
    const { bytes, starts, lengths, byte, depth, end, parent, first } = this;
    const count = starts.length;
    const path = new Int32Array(longestToken + 1);
    let level = 0;
    let node = 0;
    let deepest = 0;
    let filled = 0;
    for (let i = 0; i < count; i++) {
      const kept = shared[i]!;
      while (level > kept) end[path[--level]!] = node;
      const length = lengths[i]!;
      for (; level < length; level++) {
        byte[node] = bytes[starts[i]! + level]!;
        depth[node] = level + 1;
        parent[node] = level === 0 ? -1 : path[level - 1]!;
        path[level] = node++;
      }
      // nodes come in the order of the tokens that end at them
      const last = path[length - 1]!;
      while (filled <= last) first[filled++] = i;
      deepest = Math.max(deepest, length);
    }
    while (level > 0) end[path[--level]!] = node;
    while (filled <= node) first[filled++] = count;
    return deepest;
  }

  private indexBytes(): readonly Int32Array[] {
    const counts = new Int32Array(256);
    for (let n = 0; n < this.byte.length; n++) counts[this.byte[n]!]! += 1;
    const lists = Array.from(counts, (count) => new Int32Array(count));
    counts.fill(0);
    for (let n = 0; n < this.byte.length; n++) {
      const byte = this.byte[n]!;
      lists[byte]![counts[byte]!++] = n;
    }
    return lists;
  }
}
