import type { TokenMask } from "../grammar/index.ts";
import type { Ranked } from "./select.ts";

/** What a mask of tokens does to logits and to candidates. */

export function isAllowed({ words }: TokenMask, token: number): boolean {
  return ((words[token >> 5]! >>> (token & 31)) & 1) === 1;
}

/** The allowed ones of candidates, in their order. */
export function allowedOf(c: Ranked, mask: TokenMask): Ranked {
  let kept = 0;
  for (let i = 0; i < c.ids.length; i++) if (isAllowed(mask, c.ids[i]!)) kept += 1;
  if (kept === c.ids.length) return c;
  const ids = new Int32Array(kept);
  const values = new Float32Array(kept);
  let n = 0;
  for (let i = 0; i < c.ids.length; i++) {
    if (!isAllowed(mask, c.ids[i]!)) continue;
    ids[n] = c.ids[i]!;
    values[n] = c.values[i]!;
    n += 1;
  }
  return { ids, values };
}

export function firstOf(c: Ranked, count: number): Ranked {
  return count >= c.ids.length ? c : { ids: c.ids.subarray(0, count), values: c.values.subarray(0, count) };
}

/** Sets the logits of all other tokens to minus infinity. */
export function forbid(row: Float32Array, { words }: TokenMask): void {
  for (let w = 0, i = 0; i < row.length; w++) {
    const word = words[w]!;
    const end = Math.min(i + 32, row.length);
    if (word === -1) i = end;
    else if (word === 0) {
      row.fill(-Infinity, i, end);
      i = end;
    } else for (let bit = 0; i < end; bit++, i++) if (((word >>> bit) & 1) === 0) row[i] = -Infinity;
  }
}

/** The allowed token with the largest logit, the lowest id on ties; the first allowed one where none has a number. */
export function bestAllowed(row: Float32Array, { words }: TokenMask): number {
  let best = -1;
  let top = -Infinity;
  for (let w = 0; w < words.length; w++) {
    for (let rest = words[w]!; rest !== 0; rest &= rest - 1) {
      const id = w * 32 + (31 - Math.clz32(rest & -rest));
      const x = row[id]!;
      if (best < 0 || x > top) {
        best = id;
        top = Math.max(x, -Infinity);
      }
    }
  }
  return best;
}

/** A chosen token, or the first allowed one: rows without a number leave a draw nothing to choose from. */
export function allowedOr(token: number, mask: TokenMask): number {
  if (isAllowed(mask, token)) return token;
  const w = mask.words.findIndex((word) => word !== 0);
  const word = mask.words[w]!;
  return w * 32 + (31 - Math.clz32(word & -word));
}
