import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { expectSpec, f32Spec, totalBytes } from "../spec.ts";

/** Where q and k [Hk, Ek], v [Hv, Ev] and the raw gates a and b [Hv] begin in their rows, and the heads' geometry. */
export type GatedDeltaRuleParams = {
  readonly qOffset: number;
  readonly kOffset: number;
  readonly vOffset: number;
  readonly aOffset: number;
  readonly bOffset: number;
  readonly keyHeads: number;
  readonly keyDim: number;
  /** Value head h has key head h % keyHeads (GGUF); otherwise h / (value heads / keyHeads) (checkpoint). */
  readonly tiled: boolean;
};

/** What the forms of the rule differ in. */
type RuleForm = Pick<Op<GatedDeltaRuleParams>, "name" | "summary" | "backends"> & {
  /** Which heads the kernels have, and in words. */
  has(keyDim: number, valueDim: number): boolean;
  readonly heads: string;
  /** Rows of valueDim numbers of a head's state. */
  stateRows(keyDim: number, valueDim: number): number;
  /** Of a token and value head. */
  flops(keyDim: number, valueDim: number): number;
};

/** An op of the gated delta rule over a flat batch. */
export const ruleOp = (form: RuleForm): Op<GatedDeltaRuleParams> => ({
  name: form.name,
  summary: form.summary,
  ...(form.backends && { backends: form.backends }),
  inputs: [
    { name: "qkv" },
    { name: "a" },
    { name: "b" },
    { name: "decay" },
    { name: "dt_bias" },
    { name: "state" },
    { name: "sequences" },
    { name: "positions" },
    { name: "slots" },
  ],
  params: ["qOffset", "kOffset", "vOffset", "aOffset", "bOffset", "keyHeads", "keyDim", "tiled"],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"] as const),
  ],
  outputs([qkv, a, b, decay, dtBias, state, sequences, positions, slots], p) {
    const where = form.name;
    const [tokens, stride] = expectSpec(`${where} qkv`, qkv, "f32", [-1, -1]).shape as [number, number];
    const valueHeads = expectSpec(`${where} decay`, decay, "f32", [-1]).shape[0]!;
    const aStride = expectSpec(`${where} a`, a, "f32", [tokens, -1]).shape[1]!;
    const bStride = expectSpec(`${where} b`, b, "f32", [tokens, -1]).shape[1]!;
    expectSpec(`${where} dt_bias`, dtBias, "f32", [valueHeads]);
    const valueDim = expectSpec(`${where} state`, state, "f32", [-1, valueHeads, -1, -1]).shape[3]!;
    expectSpec(`${where} state`, state, "f32", [
      -1,
      valueHeads,
      form.stateRows(p.keyDim, valueDim),
      valueDim,
    ]);
    expectSpec(`${where} sequences`, sequences, "i32", [tokens]);
    expectSpec(`${where} positions`, positions, "i32", [tokens]);
    expectSpec(`${where} slots`, slots, "i32", [-1]);
    const inside = (offset: number, width: number, row: number): boolean =>
      offset >= 0 && offset + width <= row;
    const keys = p.keyHeads * p.keyDim;
    const fits =
      inside(p.qOffset, keys, stride) &&
      inside(p.kOffset, keys, stride) &&
      inside(p.vOffset, valueHeads * valueDim, stride) &&
      inside(p.aOffset, valueHeads, aStride) &&
      inside(p.bOffset, valueHeads, bStride);
    if (!fits || valueHeads % p.keyHeads !== 0 || !form.has(p.keyDim, valueDim)) {
      const wanted = `heads of ${form.heads} inside rows of ${stride}, ${aStride} and ${bStride}, a multiple of the key heads`;
      const got = JSON.stringify({ ...p, valueHeads, valueDim });
      throw unexpected("invalid_argument", where, wanted, got);
    }
    return [f32Spec(tokens, valueHeads * valueDim)];
  },
  cost([qkv, , , , , state, , , slots], p, [y]) {
    const [, valueHeads, rows, valueDim] = state!.shape as [number, number, number, number];
    const tokens = qkv!.shape[0]!;
    const inputs = tokens * (2 * p.keyHeads * p.keyDim + valueHeads * (valueDim + 2)) * 4;
    const states = Math.min(tokens, slots!.shape[0]!) * valueHeads * rows * valueDim * 8;
    const flops = tokens * valueHeads * form.flops(p.keyDim, valueDim);
    return { flops, bytes: inputs + states + totalBytes(y) };
  },
  arguments([y], [qkv, a, b, decay, dtBias, state, sequences, positions, slots], p) {
    const [slotCount, valueHeads, , valueDim] = state!.shape as [number, number, number, number];
    return [
      ...[y!, state!, qkv!, a!, b!, decay!, dtBias!, sequences!, positions!, slots!].map((t) => t.address),
      ...[qkv!.shape[0]!, qkv!.shape[1]!, p.qOffset, p.kOffset, p.vOffset],
      ...[a!.shape[1]!, p.aOffset, b!.shape[1]!, p.bOffset],
      ...[p.keyHeads, valueHeads, p.keyDim, valueDim, slots!.shape[0]!, slotCount, p.tiled ? 1 : 0],
    ];
  },
});

/**
 * Gated delta rule (arXiv:2412.06464), token by token: S = exp(g) S; S += k (beta (v - S^T k))^T; y = S^T q, with
 * g = decay * softplus(a + dt_bias) and beta = sigmoid(b); q and k are normalised to length 1, q scaled by 1/sqrt(Ek).
 */
export const gatedDeltaRule = ruleOp({
  name: "gated_delta_rule",
  backends: ["cpu", "metal"],
  summary: "gated delta rule of DeltaNet layers; the state moves on in place",
  has: (keyDim) => keyDim <= 256,
  heads: "up to 256",
  stateRows: (keyDim) => keyDim,
  flops: (keyDim, valueDim) => 7 * keyDim * valueDim,
});
