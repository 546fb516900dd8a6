import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { describe, dtypeCode, expectSpec } from "../spec.ts";
import { type RopeKvWriteParams, ropeKvWrite } from "./rope_kv_write.ts";

export type NormRopeKvWriteParams = RopeKvWriteParams & {
  readonly eps: number;
  /** Whether values are normed too, without a weight. */
  readonly normValues: boolean;
};

/**
 * Norms the heads of q and k (and v), rotates q in place and k on its way into the cache with v: the bits of rms_norm and
 * rope_kv_write. k and v keep their rows; without them queries alone.
 */
export const normRopeKvWrite: Op<NormRopeKvWriteParams> = {
  name: "norm_rope_kv_write",
  summary: "norms of heads, then rope_kv_write of them; queries alone where there are no keys",
  backends: ["cuda"],
  inputs: [
    { name: "q" },
    { name: "k_cache", optional: true },
    { name: "v_cache", optional: true },
    { name: "k", optional: true },
    { name: "v", optional: true },
    { name: "q_norm" },
    { name: "k_norm", optional: true },
    { name: "page_table" },
    { name: "sequences" },
    { name: "positions" },
    { name: "inv_freq" },
  ],
  params: [...ropeKvWrite.params, "eps", "normValues"],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "f32", "f32"] as const),
  ],
  inPlace: 0,
  outputs([q, kCache, vCache, k, v, qNorm, kNorm, table, sequences, positions, invFreq], p) {
    const where = "norm_rope_kv_write";
    expectSpec(`${where} q_norm`, qNorm, "f32", [p.headDim]);
    if (k && v) {
      expectSpec(`${where} k_norm`, kNorm, "f32", [p.headDim]);
      return ropeKvWrite.outputs([q, kCache, vCache, k, v, table, sequences, positions, invFreq], p);
    }
    if (k || v) throw unexpected("invalid_argument", where, "keys and values, or neither", describe(k ?? v));
    const { shape } = expectSpec(where, q, "f32", [-1, -1]);
    expectSpec(`${where} page_table`, table, "i32", [-1, -1]);
    expectSpec(`${where} sequences`, sequences, "i32", [shape[0]!]);
    expectSpec(`${where} positions`, positions, "i32", [shape[0]!]);
    const pairs = expectSpec(`${where} inv_freq`, invFreq, "f32", [-1]).shape[0]!;
    if (p.qOffset + p.heads * p.headDim > shape[1]! || 2 * pairs > p.headDim) {
      throw unexpected("invalid_argument", where, `heads inside rows of ${shape[1]}`, JSON.stringify(p));
    }
    return [{ dtype: "f32", shape, packed: false }];
  },
  cost([q, , , k], p) {
    const tokens = q!.shape[0]!;
    const kvHeads = k ? p.kvHeads : 0;
    const bytes = 8 * tokens * p.heads * p.headDim + 16 * tokens * kvHeads * p.headDim;
    return { flops: 7 * tokens * (p.heads + 2 * kvHeads) * p.headDim, bytes };
  },
  arguments: (_outputs, inputs, p) => {
    const [q, kCache, , k, v, , , table, , , invFreq] = inputs;
    const own = k!.address !== 0;
    return [
      ...inputs.map((t) => t.address),
      ...[q!.shape[0]!, q!.shape[1]!, p.qOffset, p.heads],
      ...(own ? [k!.shape[1]!, p.kOffset, v!.shape[1]!, p.vOffset] : [0, 0, 0, 0]),
      ...[p.kvHeads, p.headDim, p.pageSize, table!.shape[1]!, own ? dtypeCode(kCache!) : 0],
      ...[2 * invFreq!.shape[0]!, p.neox ? 1 : 0, p.normValues ? 1 : 0, p.mscale, p.eps],
    ];
  },
};
