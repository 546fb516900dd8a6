import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { expectSpec, f32Spec, totalBytes } from "../spec.ts";

/** The longest convolution that the kernels have. */
const mostTaps = 8;

/** y[t,c] = silu(sum_j w[c,j] x[t-K+1+j,c]) along each sequence; the state holds the K-1 inputs before the next token. */
export const causalConv1d: Op<{ readonly offset: number }> = {
  name: "causal_conv1d",
  summary: "causal convolution of each channel along its sequence, then silu; the state moves on in place",
  inputs: [
    { name: "x" },
    { name: "w" },
    { name: "state" },
    { name: "sequences" },
    { name: "positions" },
    { name: "slots" },
  ],
  params: ["offset"],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "i32"] as const),
  ],
  outputs([x, w, state, sequences, positions, slots], { offset }) {
    const [tokens, stride] = expectSpec("causal_conv1d x", x, "f32", [-1, -1]).shape as [number, number];
    const [channels, taps] = expectSpec("causal_conv1d w", w, "f32", [-1, -1]).shape as [number, number];
    expectSpec("causal_conv1d state", state, "f32", [-1, taps - 1, channels]);
    expectSpec("causal_conv1d sequences", sequences, "i32", [tokens]);
    expectSpec("causal_conv1d positions", positions, "i32", [tokens]);
    expectSpec("causal_conv1d slots", slots, "i32", [-1]);
    if (taps < 2 || taps > mostTaps || !(offset >= 0 && offset + channels <= stride)) {
      const wanted = `2 to ${mostTaps} taps, and channels inside rows of ${stride}`;
      throw unexpected("invalid_argument", "causal_conv1d", wanted, `${taps}, ${channels} at ${offset}`);
    }
    return [f32Spec(tokens, channels)];
  },
  cost([x, w, , , , slots], _p, [y]) {
    const [channels, taps] = w!.shape as [number, number];
    const states = Math.min(x!.shape[0]!, slots!.shape[0]!) * (taps - 1) * channels * 8;
    const elements = y!.shape[0]! * channels;
    return { flops: (2 * taps + 4) * elements, bytes: totalBytes(w, y) + 4 * elements + states };
  },
  arguments: ([y], [x, w, state, sequences, positions, slots], { offset }) => [
    ...[y!, state!, x!, w!, sequences!, positions!, slots!].map((t) => t.address),
    ...[x!.shape[0]!, x!.shape[1]!, offset, ...w!.shape, slots!.shape[0]!, state!.shape[0]!],
  ],
};
