import { unexpected } from "../../core/error.ts";
import type { Op, TensorSpec } from "../op.ts";
import { expectSpec, f32Spec, totalBytes } from "../spec.ts";
import { chunkStateRows } from "./gated_delta_chunks.ts";

/** Tokens, sequences and key heads that the kernel counts, its most taps, and the widest head. */
const [most, mostTaps, widest] = [64, 4, 128];

/** Where q, k and v begin together, z [Hv, Ev] and the raw gates a and b [Hv] in their rows, and the heads' geometry. */
export type GatedDeltaStepParams = {
  readonly offset: number;
  readonly zOffset: number;
  readonly aOffset: number;
  readonly bOffset: number;
  readonly keyHeads: number;
  readonly keyDim: number;
  /** As in gated_delta_rule. */
  readonly tiled: boolean;
  readonly eps: number;
};

/** Whether one kernel makes a generation step: about a token of each sequence, heads of 32 to 128. */
export function stepsFused(
  tokens: number,
  slots: TensorSpec,
  convolution: TensorSpec,
  { keyHeads, keyDim }: Pick<GatedDeltaStepParams, "keyHeads" | "keyDim">,
  valueDim: number,
): boolean {
  const heads = valueDim % 32 === 0 && valueDim <= widest && keyDim % 4 === 0 && keyDim <= widest;
  const fits = heads && 2 * keyDim <= 3 * valueDim && keyHeads <= most && convolution.shape[1]! <= mostTaps;
  return fits && tokens <= slots.shape[0]! && slots.shape[0]! <= most;
}

/** A generation step of a gated delta rule layer: the bits of causal_conv1d, gated_delta_chunks and rms_norm_gated. */
export const gatedDeltaStep: Op<GatedDeltaStepParams> = {
  name: "gated_delta_step",
  summary:
    "a generation step's convolution, gated delta rule by chunks and gated norm in one; both states move on in place",
  backends: ["cuda"],
  inputs: [
    ...[{ name: "qkv" }, { name: "z" }, { name: "a" }, { name: "b" }, { name: "conv_w" }],
    ...[{ name: "decay" }, { name: "dt_bias" }, { name: "norm" }, { name: "taps_state" }],
    ...[{ name: "state" }, { name: "sequences" }, { name: "positions" }, { name: "slots" }],
  ],
  params: ["offset", "zOffset", "aOffset", "bOffset", "keyHeads", "keyDim", "tiled", "eps"],
  signature: [
    ...([
      "ptr",
      "ptr",
      "ptr",
      "ptr",
      "ptr",
      "ptr",
      "ptr",
      "ptr",
      "ptr",
      "ptr",
      "ptr",
      "ptr",
      "ptr",
      "ptr",
    ] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "f32"] as const),
  ],
  outputs([qkv, z, a, b, convW, decay, dtBias, norm, tapsState, state, sequences, positions, slots], p) {
    const where = "gated_delta_step";
    const [tokens, stride] = expectSpec(`${where} qkv`, qkv, "f32", [-1, -1]).shape as [number, number];
    const valueHeads = expectSpec(`${where} decay`, decay, "f32", [-1]).shape[0]!;
    const valueDim = expectSpec(`${where} state`, state, "f32", [-1, valueHeads, -1, -1]).shape[3]!;
    expectSpec(`${where} state`, state, "f32", [
      -1,
      valueHeads,
      chunkStateRows(p.keyDim, valueDim),
      valueDim,
    ]);
    const values = valueHeads * valueDim;
    const channels = 2 * p.keyHeads * p.keyDim + values;
    const taps = expectSpec(`${where} conv_w`, convW, "f32", [channels, -1]).shape[1]!;
    const [zStride, aStride, bStride] = ([z, a, b] as const).map(
      (t, i) => expectSpec(`${where} ${["z", "a", "b"][i]}`, t, "f32", [tokens, -1]).shape[1]!,
    ) as [number, number, number];
    expectSpec(`${where} taps_state`, tapsState, "f32", [state!.shape[0]!, taps - 1, channels]);
    expectSpec(`${where} dt_bias`, dtBias, "f32", [valueHeads]);
    expectSpec(`${where} norm`, norm, "f32", [valueDim]);
    expectSpec(`${where} sequences`, sequences, "i32", [tokens]);
    expectSpec(`${where} positions`, positions, "i32", [tokens]);
    expectSpec(`${where} slots`, slots, "i32", [-1]);
    const inside = (offset: number, width: number, row: number): boolean =>
      offset >= 0 && offset + width <= row;
    const fits =
      inside(p.offset, channels, stride) &&
      inside(p.zOffset, values, zStride) &&
      inside(p.aOffset, valueHeads, aStride) &&
      inside(p.bOffset, valueHeads, bStride) &&
      valueHeads % p.keyHeads === 0 &&
      stepsFused(tokens, slots!, convW!, p, valueDim);
    if (!fits) {
      const wanted = `heads of 32 to ${widest} inside rows of ${stride}, ${zStride}, ${aStride} and ${bStride}, and a token of each of at most ${most} sequences`;
      throw unexpected(
        "invalid_argument",
        where,
        wanted,
        JSON.stringify({ ...p, tokens, valueHeads, valueDim }),
      );
    }
    return [f32Spec(tokens, values)];
  },
  cost([, , , , convW, , , norm, tapsState, state], p, [y]) {
    const [, valueHeads, rows, valueDim] = state!.shape as [number, number, number, number];
    const tokens = y!.shape[0]!;
    const [channels, taps] = convW!.shape as [number, number];
    const states = tokens * (4 * valueHeads * rows * valueDim + 8 * tapsState!.shape[1]! * channels);
    const ends = 4 * tokens * (channels + valueHeads * (valueDim + 2));
    const elements = valueHeads * p.keyDim * valueDim;
    return {
      flops: tokens * (7 * elements + (2 * taps + 4) * channels + 10 * valueHeads * valueDim),
      bytes: totalBytes(convW, norm, y) + ends + states,
    };
  },
  arguments([y], inputs, p) {
    const [qkv, z, a, b, convW, decay, dtBias, norm, tapsState, state, sequences, positions, slots] = inputs;
    const [slotCount, valueHeads, , valueDim] = state!.shape as [number, number, number, number];
    return [
      ...[y!, tapsState!, state!, qkv!, z!, a!, b!, convW!, decay!, dtBias!, norm!].map((t) => t.address),
      ...[sequences!.address, positions!.address, slots!.address],
      ...[qkv!.shape[0]!, qkv!.shape[1]!, p.offset, z!.shape[1]!, p.zOffset],
      ...[a!.shape[1]!, p.aOffset, b!.shape[1]!, p.bOffset],
      ...[p.keyHeads, valueHeads, p.keyDim, valueDim, convW!.shape[1]!, slots!.shape[0]!, slotCount],
      ...[p.tiled ? 1 : 0, p.eps],
    ];
  },
};
