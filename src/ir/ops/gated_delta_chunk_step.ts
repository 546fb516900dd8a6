import { chunkStateRows } from "./gated_delta_chunks.ts";
import { stepOp } from "./gated_delta_step.ts";

/** A generation step of a gated delta rule layer by chunks: the bits of causal_conv1d, gated_delta_chunks and rms_norm_gated. */
export const gatedDeltaChunkStep = stepOp({
  name: "gated_delta_chunk_step",
  summary: "gated_delta_step with the state of gated_delta_chunks",
  stateRows: chunkStateRows,
  // read, and written at a chunk's end
  stateBytes: (elements) => 4 * elements,
});
