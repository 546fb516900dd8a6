/** Searches over one row of logits, f32 [V]. */

/** Largest logits of a row, descending, the lower id first among equals; NaN takes no part. */
export type Ranked = { readonly ids: Int32Array; readonly values: Float32Array };

/** Position of the largest value: the lowest on ties; NaN never wins; 0 when nothing else is there. */
export function argmax(row: Float32Array): number {
  let best = -1;
  let top = -Infinity;
  for (let i = 0; i < row.length; i++) {
    const x = row[i]!;
    if (x > top || (best < 0 && x === top)) {
      top = x;
      best = i;
    }
  }
  return Math.max(best, 0);
}

/** log(sum(exp(row))) in f64; NaN counts as absent. */
export function logSumExp(row: Float32Array): number {
  let top = -Infinity;
  for (let i = 0; i < row.length; i++) if (row[i]! > top) top = row[i]!;
  if (top === -Infinity) return -Infinity;
  let sum = 0;
  for (let i = 0; i < row.length; i++) {
    const e = Math.exp(row[i]! - top);
    if (e > 0) sum += e;
  }
  return top + Math.log(sum);
}

/** The `k` largest: a min-heap of the k best so far; most elements cost one comparison with its root. */
export function topK(row: Float32Array, k: number): Ranked {
  const values = new Float32Array(k);
  const ids = new Int32Array(k);
  let size = 0;
  // worse(i, j): entry i ranks below entry j
  const worse = (i: number, j: number) =>
    values[i]! < values[j]! || (values[i]! === values[j]! && ids[i]! > ids[j]!);
  const swap = (i: number, j: number) => {
    const v = values[i]!;
    const id = ids[i]!;
    values[i] = values[j]!;
    ids[i] = ids[j]!;
    values[j] = v;
    ids[j] = id;
  };
  const sink = (from: number, end: number) => {
    for (let i = from; ; ) {
      let child = 2 * i + 1;
      if (child >= end) return;
      if (child + 1 < end && worse(child + 1, child)) child += 1;
      if (!worse(child, i)) return;
      swap(i, child);
      i = child;
    }
  };
  for (let id = 0; id < row.length; id++) {
    const x = row[id]!;
    if (size === k) {
      // ids rise, so an equal value ranks below what is there
      if (!(x > values[0]!)) continue;
      values[0] = x;
      ids[0] = id;
      sink(0, size);
    } else if (!Number.isNaN(x)) {
      let i = size++;
      values[i] = x;
      ids[i] = id;
      for (let up = (i - 1) >> 1; i > 0 && worse(i, up); up = (i - 1) >> 1) {
        swap(i, up);
        i = up;
      }
    }
  }
  for (let end = size - 1; end > 0; end--) {
    swap(0, end);
    sink(0, end);
  }
  return { ids: ids.subarray(0, size), values: values.subarray(0, size) };
}
