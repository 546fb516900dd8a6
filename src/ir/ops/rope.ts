import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { expectSpec } from "../spec.ts";

/** Heads at `offset` inside each row; `neox`: pairs (i, i + n/2), otherwise (2i, 2i+1). */
export type RopeParams = {
  readonly offset: number;
  readonly heads: number;
  readonly headDim: number;
  readonly neox: boolean;
  /** Factor on cos and sin (YaRN). */
  readonly mscale: number;
};

/** Rotary embedding in place (RoFormer, arXiv:2104.09864); `inv_freq` carries every kind of scaling. */
export const rope: Op<RopeParams> = {
  name: "rope",
  summary: "rotary position embedding of heads inside rows, in place",
  inputs: [{ name: "x" }, { name: "positions" }, { name: "inv_freq" }],
  params: ["offset", "heads", "headDim", "neox", "mscale"],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "f32"],
  inPlace: 0,
  outputs([x, positions, invFreq], p) {
    const { shape } = expectSpec("rope", x, "f32", [-1, -1]);
    expectSpec("rope positions", positions, "i32", [shape[0]!]);
    const pairs = expectSpec("rope inv_freq", invFreq, "f32", [-1]).shape[0]!;
    if (2 * pairs > p.headDim || p.offset + p.heads * p.headDim > shape[1]!) {
      throw unexpected(
        "invalid_argument",
        "rope",
        `heads inside rows of ${shape[1]}`,
        JSON.stringify({ ...p, pairs }),
      );
    }
    return [{ dtype: "f32", shape, packed: false }];
  },
  cost: ([x], p) => {
    const n = x!.shape[0]! * p.heads * p.headDim;
    return { flops: 3 * n, bytes: 8 * n };
  },
  arguments: (_outputs, [x, positions, invFreq], p) => [
    x!.address,
    positions!.address,
    invFreq!.address,
    x!.shape[0]!,
    x!.shape[1]!,
    p.offset,
    p.heads,
    p.headDim,
    2 * invFreq!.shape[0]!,
    p.neox ? 1 : 0,
    p.mscale,
  ],
};
