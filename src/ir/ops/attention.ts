import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { dtypeCode, expectSpec, f32Spec, totalBytes } from "../spec.ts";

export type AttentionParams = {
  readonly qOffset: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly pageSize: number;
  /** 0 = all positions up to the token's own; otherwise its last `window` positions. */
  readonly window: number;
  readonly scale: number;
  /** 0 = none. */
  readonly softcap: number;
};

/** Causal attention of a ragged batch over a paged cache; never materialises T x T. */
export const attention: Op<AttentionParams> = {
  name: "attention",
  summary: "grouped-head attention over the paged cache: window, sinks, soft cap",
  inputs: [
    { name: "q" },
    { name: "k_cache" },
    { name: "v_cache" },
    { name: "page_table" },
    { name: "sequences" },
    { name: "positions" },
    { name: "sinks", optional: true },
  ],
  params: ["qOffset", "heads", "kvHeads", "headDim", "pageSize", "window", "scale", "softcap"],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "f32", "f32", "f64"] as const),
  ],
  outputs([q, , , table, sequences, positions, sinks], p) {
    const [tokens, width] = expectSpec("attention q", q, "f32", [-1, -1]).shape as [number, number];
    expectSpec("attention page_table", table, "i32", [-1, -1]);
    expectSpec("attention sequences", sequences, "i32", [tokens]);
    expectSpec("attention positions", positions, "i32", [tokens]);
    if (sinks) expectSpec("attention sinks", sinks, "f32", [p.heads]);
    if (p.heads % p.kvHeads !== 0 || p.qOffset + p.heads * p.headDim > width) {
      throw unexpected("invalid_argument", "attention", `heads that fit rows of ${width}`, JSON.stringify(p));
    }
    return [f32Spec(tokens, p.heads * p.headDim)];
  },
  scratchBytes: ([q, , , table], p) => attentionScratchBytes(q!.shape[0]!, table!.shape[1]!, p),
  cost([q, kCache, vCache, table], p, [y]) {
    // Upper bound: every position the page table can hold, or the window.
    const positions = Math.min(table!.shape[1]! * p.pageSize, p.window || Number.POSITIVE_INFINITY);
    const tokens = q!.shape[0]!;
    const cached = Math.min(totalBytes(kCache, vCache), tokens * positions * p.kvHeads * p.headDim * 8);
    return { flops: 4 * tokens * positions * p.heads * p.headDim, bytes: totalBytes(q, y) + cached };
  },
  arguments: ([y], [q, kCache, vCache, table, sequences, positions, sinks], p, scratch) => [
    ...[y!, q!, kCache!, vCache!, table!, sequences!, positions!, sinks!].map((t) => t.address),
    scratch.address,
    ...[q!.shape[0]!, q!.shape[1]!, p.qOffset, p.heads, p.kvHeads, p.headDim, p.pageSize, table!.shape[1]!],
    ...[p.window, dtypeCode(kCache!), p.scale, p.softcap, scratch.bytes],
  ],
};

/** Partial results of more than 4 tokens, whose heads are wide, take at most so many bytes. */
const mostSpreadBytes = 64 * 2 ** 20;

/** Room for the partial results (max, sum, accumulator) of the pieces of 64 positions of few tokens, which are spread. */
export function attentionScratchBytes(
  tokens: number,
  maxPages: number,
  p: Pick<AttentionParams, "heads" | "headDim" | "pageSize" | "window">,
): number {
  const pieces = Math.ceil((maxPages * p.pageSize) / 64);
  const each = p.heads * (p.headDim + 2) * 4;
  const few = Math.min(tokens, 4) * each * pieces;
  if (tokens <= 4 || tokens > 16 || p.headDim <= 128) return few;
  const seen = p.window > 0 ? Math.min(pieces, Math.floor((p.window + 62) / 64) + 1) : pieces;
  const all = tokens * each * seen;
  return all <= mostSpreadBytes ? Math.max(few, all) : few;
}
