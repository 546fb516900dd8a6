import { unexpected } from "../core/error.ts";

/** Token sequences of one length + 1, each with its next token: row i is tokens[i * stride .. + length] and one further. */
export type Windows = {
  readonly tokens: Int32Array;
  readonly length: number;
  readonly starts: Uint32Array;
  /** For each token where its document begins in `tokens`: rows see nothing before. Absent: a window sees all of itself. */
  readonly documents?: Uint32Array;
  /** 1 for tokens whose prediction counts; absent: all. */
  readonly counted?: Uint8Array;
};

/** Windows of `length` tokens and their successors, `stride` apart, inside each document; shorter ends are left out. */
export function windowsOf(documents: readonly Int32Array[], length: number, stride: number): Windows {
  if (!(Number.isInteger(length) && length >= 1 && Number.isInteger(stride) && stride >= 1)) {
    throw unexpected(
      "invalid_argument",
      "windows",
      "a length and a stride of at least 1",
      `${length}, ${stride}`,
    );
  }
  const tokens = new Int32Array(documents.reduce((sum, d) => sum + d.length, 0));
  const starts: number[] = [];
  let at = 0;
  for (const document of documents) {
    tokens.set(document, at);
    for (let from = 0; from + length < document.length; from += stride) starts.push(at + from);
    at += document.length;
  }
  if (starts.length === 0) {
    throw unexpected("invalid_request", "windows", `a document of more than ${length} tokens`, "none", {
      fix: "Use shorter sequences or longer documents",
    });
  }
  return { tokens, length, starts: Uint32Array.from(starts) };
}

/** Host data of a batch, flat rows. */
export type HostBatch = {
  readonly sequences: number;
  readonly length: number;
  readonly tokens: Int32Array;
  readonly targets: Int32Array;
  readonly positions: Int32Array;
  /** First position of its sequence that each row sees, where windows know their documents. */
  readonly first?: Int32Array;
};

/** The windows of the given indices as one batch. */
export function batchOf(windows: Windows, indices: readonly number[]): HostBatch {
  const { length, documents, counted } = windows;
  const rows = indices.length * length;
  const [tokens, targets, positions] = [0, 1, 2].map(() => new Int32Array(rows)) as [
    Int32Array,
    Int32Array,
    Int32Array,
  ];
  const first = documents && new Int32Array(rows);
  for (const [s, index] of indices.entries()) {
    const from = windows.starts[index]!;
    tokens.set(windows.tokens.subarray(from, from + length), s * length);
    targets.set(windows.tokens.subarray(from + 1, from + 1 + length), s * length);
    for (let i = 0; i < length; i++) {
      const row = s * length + i;
      positions[row] = i;
      if (first) first[row] = Math.max(0, documents[from + i]! - from);
      if (counted?.[from + i + 1] === 0) targets[row] = -1;
    }
  }
  return { sequences: indices.length, length, tokens, targets, positions, ...(first && { first }) };
}
