import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { describe, dtypeCode, expectSpec } from "../spec.ts";

/** Where keys and values stand inside their rows, and the cache's geometry (ffi/psionic.h, "Paged cache"). */
export type KvWriteParams = {
  readonly kOffset: number;
  readonly vOffset: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly pageSize: number;
};

/** Writes the keys and values of T tokens into their pages, converting to the cache's type. */
export const kvWrite: Op<KvWriteParams> = {
  name: "kv_write",
  summary: "keys and values of new tokens into the paged cache",
  inputs: [
    { name: "k_cache" },
    { name: "v_cache" },
    { name: "k" },
    { name: "v" },
    { name: "page_table" },
    { name: "sequences" },
    { name: "positions" },
  ],
  params: ["kOffset", "vOffset", "kvHeads", "headDim", "pageSize"],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"] as const),
  ],
  inPlace: 0,
  outputs([kCache, vCache, k, v, table, sequences, positions], p) {
    const [tokens, kWidth] = expectSpec("kv_write k", k, "f32", [-1, -1]).shape as [number, number];
    const vWidth = expectSpec("kv_write v", v, "f32", [tokens, -1]).shape[1]!;
    expectSpec("kv_write page_table", table, "i32", [-1, -1]);
    expectSpec("kv_write sequences", sequences, "i32", [tokens]);
    expectSpec("kv_write positions", positions, "i32", [tokens]);
    const width = p.kvHeads * p.headDim;
    if (p.kOffset + width > kWidth || p.vOffset + width > vWidth) {
      throw unexpected(
        "invalid_argument",
        "kv_write",
        `rows that hold ${width} elements`,
        `${kWidth}, ${vWidth}`,
      );
    }
    if (kCache?.dtype !== vCache?.dtype || !kCache) {
      throw unexpected("invalid_argument", "kv_write", "caches of one dtype", describe(vCache));
    }
    return [kCache];
  },
  cost: ([, , k], p) => ({ flops: 0, bytes: 2 * k!.shape[0]! * p.kvHeads * p.headDim * 8 }),
  arguments: (_outputs, [kCache, vCache, k, v, table, sequences, positions], p) => [
    ...[kCache!, vCache!, k!, v!, table!, sequences!, positions!].map((t) => t.address),
    ...[k!.shape[0]!, k!.shape[1]!, p.kOffset, v!.shape[1]!, p.vOffset, p.kvHeads, p.headDim, p.pageSize],
    ...[table!.shape[1]!, dtypeCode(kCache!)],
  ],
};
