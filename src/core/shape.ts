import { unexpected } from "./error.ts";

/** Dimensions, slowest first (row-major): a linear weight is `[out, in]`, activations `[tokens, width]`. */
export type Shape = readonly number[];

/** Product of the dimensions; throws when it leaves the exact integers. */
export function elementCount(shape: Shape): number {
  let n = 1;
  for (const d of shape) {
    if (!Number.isSafeInteger(d) || d < 0)
      throw unexpected("invalid_argument", "shape", "non-negative integers", `[${shape}]`);
    n *= d;
    if (!Number.isSafeInteger(n))
      throw unexpected("invalid_argument", "shape", "a product below 2^53", `[${shape}]`);
  }
  return n;
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((d, i) => d === b[i]);
}
