/** Batches for the ops of DeltaNet layers: tokens of several sequences, and what each op's arguments are made of. */
import { floats, randomFloats } from "./library.ts";
import { ints } from "./twins.ts";

/** A sequence's share of a batch: how many tokens, the first one's position, and where its state lies. */
export type Part = { readonly sequence: number; readonly count: number; readonly from: number };

/** What the ops take to know whose tokens they get; `slots[s]` is the state of sequence s. */
export function places(parts: readonly Part[]) {
  const rows = parts.flatMap(({ sequence, count, from }) =>
    Array.from({ length: count }, (_, i) => [sequence, from + i] as const),
  );
  return {
    tokens: rows.length,
    sequences: ints(rows.map(([sequence]) => sequence)),
    positions: ints(rows.map(([, position]) => position)),
  };
}

/** Rows of the parts, out of arrays that hold whole sequences one after the other, `length` tokens each. */
export function rowsOf(
  all: Float32Array,
  width: number,
  length: number,
  parts: readonly Part[],
): Float32Array {
  const out = floats(parts.reduce((n, { count }) => n + count, 0) * width);
  let at = 0;
  for (const { sequence, count, from } of parts) {
    const begin = (sequence * length + from) * width;
    out.set(all.subarray(begin, begin + count * width), at);
    at += count * width;
  }
  return out;
}

/** Writes rows back where `rowsOf` has them from. */
export function putRows(
  all: Float32Array,
  rows: Float32Array,
  width: number,
  length: number,
  parts: readonly Part[],
): void {
  let at = 0;
  for (const { sequence, count, from } of parts) {
    all.set(rows.subarray(at, at + count * width), (sequence * length + from) * width);
    at += count * width;
  }
}

/** Ways to go through `count` sequences of `length` tokens, batch by batch; the first is one pass over all. */
export function splits(count: number, length: number): readonly (readonly (readonly Part[])[])[] {
  const part = (sequence: number, from: number, end: number): Part => ({ sequence, from, count: end - from });
  const each = Array.from({ length: count }, (_, s) => s);
  const whole = [each.map((s) => part(s, 0, length))];
  const singly = Array.from({ length }, (_, t) => each.map((s) => part(s, t, t + 1)));
  // one sequence alone, then the rest of it beside beginnings of others, in another order
  const cut = Math.min(length, 5);
  const uneven = [
    [part(0, 0, cut)],
    [...each.filter((s) => s > 0).map((s) => part(s, 0, Math.min(s, length)))],
    [...each].reverse().flatMap((s) => {
      const from = s === 0 ? cut : Math.min(s, length);
      return from < length ? [part(s, from, length)] : [];
    }),
  ].filter((parts) => parts.length > 0);
  return [whole, singly, uneven];
}

export type DeltaShape = {
  readonly keyHeads: number;
  readonly valueHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  readonly tiled: boolean;
};

/** Inputs of psi_gated_delta_rule for whole sequences; q, k, v and the gates stand apart from their rows' ends. */
export function deltaInputs(shape: DeltaShape, tokens: number, seed: number, gap = 4) {
  const { keyHeads, valueHeads, keyDim, valueDim } = shape;
  const keys = keyHeads * keyDim;
  const qOffset = gap;
  const kOffset = qOffset + keys + gap;
  const vOffset = kOffset + keys;
  const stride = vOffset + valueHeads * valueDim + gap;
  const [aStride, aOffset, bStride, bOffset] = [2 * valueHeads + 1, 1, valueHeads + 3, 2];
  const decay = randomFloats(valueHeads, seed + 3);
  // from states that hardly fade to ones that are gone after a token
  decay.forEach((_, h) => {
    decay[h] = -(10 ** (2 * (h / valueHeads) - 1.5));
  });
  return {
    qkv: randomFloats(tokens * stride, seed),
    a: randomFloats(tokens * aStride, seed + 1),
    b: randomFloats(tokens * bStride, seed + 2),
    decay,
    dtBias: randomFloats(valueHeads, seed + 4),
    strides: { qkv: stride, a: aStride, b: bStride },
    /** The sizes between `stride` and `sequences` of the prototype. */
    sizes: [
      ...[stride, qOffset, kOffset, vOffset, aStride, aOffset, bStride, bOffset],
      ...[keyHeads, valueHeads, keyDim, valueDim],
    ],
  };
}
