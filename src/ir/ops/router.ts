import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { expectSpec, f32Spec, i32Spec, totalBytes } from "../spec.ts";

export const routerModes = { softmax: 1, sigmoid: 2, softmaxOfChosen: 3 } as const;

export type RouterParams = {
  readonly mode: keyof typeof routerModes;
  readonly used: number;
  /** Divide the chosen weights by their sum. */
  readonly normalize: boolean;
  readonly scale: number;
};

/**
 * Top-k routing: expert ids i32 [T, k] and weights f32 [T, k], descending; the lower index on ties. A scale per expert
 * multiplies the weights at the end.
 */
export const router: Op<RouterParams> = {
  name: "router",
  summary: "choice of experts and their weights",
  inputs: [{ name: "logits" }, { name: "bias", optional: true }, { name: "expertScale", optional: true }],
  params: ["mode", "used", "normalize", "scale"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "f32"],
  outputs([logits, bias, expertScale], p) {
    const [tokens, experts] = expectSpec("router", logits, "f32", [-1, -1]).shape as [number, number];
    if (bias) expectSpec("router bias", bias, "f32", [experts]);
    if (expertScale) expectSpec("router expertScale", expertScale, "f32", [experts]);
    if (!(p.used >= 1 && p.used <= experts)) {
      throw unexpected("invalid_argument", "router", `1..${experts} experts used`, p.used);
    }
    return [i32Spec(tokens, p.used), f32Spec(tokens, p.used)];
  },
  cost: ([logits, bias], _p, [ids, weights]) => ({
    flops: 10 * logits!.shape[0]! * logits!.shape[1]!,
    bytes: totalBytes(logits, bias, ids, weights),
  }),
  arguments: ([ids, weights], [logits, bias, expertScale], p) => [
    ...[ids!.address, weights!.address, logits!.address, bias!.address, expertScale!.address],
    ...(logits!.shape as [number, number]),
    ...[p.used, routerModes[p.mode], p.normalize ? 1 : 0, p.scale],
  ],
};
