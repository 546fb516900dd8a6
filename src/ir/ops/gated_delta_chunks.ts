import { ruleOp } from "./gated_delta_rule.ts";

/** Tokens of a chunk, cut at multiples of it of the positions, and the widest key head. */
const [chunk, widestKey] = [16, 128];

/** Whether the rule goes by chunks for heads of these sizes. */
export function goesByChunks(keyDim: number, valueDim: number): boolean {
  return keyDim % 4 === 0 && keyDim <= widestKey && valueDim % 32 === 0;
}

/** Rows of a head's state: the memory before the chunk, then what the chunk's tokens wrote, their keys and their decays. */
export function chunkStateRows(keyDim: number, valueDim: number): number {
  return keyDim + chunk + Math.ceil((chunk * (keyDim + 1)) / valueDim);
}

/**
 * gated_delta_rule by chunks of 16 tokens (the papers' form for prompts). The state is the memory as it was before the chunk with
 * what the chunk's tokens add to it, so that a token has the same bits in a prompt and alone.
 */
export const gatedDeltaChunks = ruleOp({
  name: "gated_delta_chunks",
  summary: "gated delta rule by chunks of 16 tokens, whose state keeps a chunk's tokens apart",
  backends: ["cuda"],
  has: goesByChunks,
  heads: `up to ${widestKey} in fours and values in 32s`,
  stateRows: chunkStateRows,
  flops: (keyDim, valueDim) => 6 * keyDim * valueDim + chunk * (4 * keyDim + 2 * valueDim),
});
