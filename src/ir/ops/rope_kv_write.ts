import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { describe, dtypeCode, expectSpec } from "../spec.ts";

/** Where queries, keys and values stand inside their rows, how they turn, and the cache's geometry. */
export type RopeKvWriteParams = {
  readonly qOffset: number;
  readonly kOffset: number;
  readonly vOffset: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly pageSize: number;
  readonly neox: boolean;
  /** Factor on cos and sin (YaRN). */
  readonly mscale: number;
};

/** Rotates q in place and k on its way into the cache with v: the bits of rope, rope and kv_write. k keeps its rows. */
export const ropeKvWrite: Op<RopeKvWriteParams> = {
  name: "rope_kv_write",
  summary: "rotary embedding of queries in place and of keys on their way into the paged cache, with values",
  backends: ["cuda", "metal"],
  inputs: [
    { name: "q" },
    { name: "k_cache" },
    { name: "v_cache" },
    { name: "k" },
    { name: "v" },
    { name: "page_table" },
    { name: "sequences" },
    { name: "positions" },
    { name: "inv_freq" },
  ],
  params: ["qOffset", "kOffset", "vOffset", "heads", "kvHeads", "headDim", "pageSize", "neox", "mscale"],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "f32"] as const),
  ],
  inPlace: 0,
  outputs([q, kCache, vCache, k, v, table, sequences, positions, invFreq], p) {
    const { shape } = expectSpec("rope_kv_write", q, "f32", [-1, -1]);
    const tokens = shape[0]!;
    const kWidth = expectSpec("rope_kv_write k", k, "f32", [tokens, -1]).shape[1]!;
    const vWidth = expectSpec("rope_kv_write v", v, "f32", [tokens, -1]).shape[1]!;
    expectSpec("rope_kv_write page_table", table, "i32", [-1, -1]);
    expectSpec("rope_kv_write sequences", sequences, "i32", [tokens]);
    expectSpec("rope_kv_write positions", positions, "i32", [tokens]);
    const pairs = expectSpec("rope_kv_write inv_freq", invFreq, "f32", [-1]).shape[0]!;
    const width = p.kvHeads * p.headDim;
    const fits =
      p.qOffset + p.heads * p.headDim <= shape[1]! &&
      p.kOffset + width <= kWidth &&
      p.vOffset + width <= vWidth &&
      2 * pairs <= p.headDim;
    if (!fits) {
      throw unexpected(
        "invalid_argument",
        "rope_kv_write",
        `heads inside rows of ${shape[1]}, ${kWidth}, ${vWidth}`,
        JSON.stringify({ ...p, pairs }),
      );
    }
    if (kCache?.dtype !== vCache?.dtype || !kCache) {
      throw unexpected("invalid_argument", "rope_kv_write", "caches of one dtype", describe(vCache));
    }
    return [{ dtype: "f32", shape, packed: false }];
  },
  cost([q], p) {
    const tokens = q!.shape[0]!;
    const turned = tokens * (p.heads + p.kvHeads) * p.headDim;
    const bytes = 8 * tokens * p.heads * p.headDim + 16 * tokens * p.kvHeads * p.headDim;
    return { flops: 3 * turned, bytes };
  },
  arguments: (_outputs, [q, kCache, vCache, k, v, table, sequences, positions, invFreq], p) => [
    ...[q!, kCache!, vCache!, k!, v!, table!, sequences!, positions!, invFreq!].map((t) => t.address),
    ...[q!.shape[0]!, q!.shape[1]!, p.qOffset, p.heads, k!.shape[1]!, p.kOffset, v!.shape[1]!, p.vOffset],
    ...[p.kvHeads, p.headDim, p.pageSize, table!.shape[1]!, dtypeCode(kCache!), 2 * invFreq!.shape[0]!],
    ...[p.neox ? 1 : 0, p.mscale],
  ],
};
