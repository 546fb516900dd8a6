import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { describe, dtypeCode, expectSpec, f32Spec, totalBytes } from "../spec.ts";
import { roundedBytes } from "./matmul.ts";

/**
 * One linear layer of the chosen experts: slot s = t * used + j multiplies x[t] (or x[s] when `x` has a row per slot)
 * by expert ids[t, j]. w is packed [E, N, K], bias [E, N]; y is [T * used, N].
 */
export const moeMatmul: Op<Record<string, never>> = {
  name: "moe_matmul",
  summary: "linear layer of the chosen experts, grouped by expert",
  inputs: [{ name: "x" }, { name: "w" }, { name: "bias", optional: true }, { name: "ids" }],
  params: [],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "i32", "f64"] as const),
  ],
  outputs([x, w, bias, ids]) {
    if (!w?.packed || w.shape.length !== 3) {
      throw unexpected("invalid_argument", "moe_matmul", "a packed weight [E, N, K]", describe(w));
    }
    const [experts, outputs, columns] = w.shape as [number, number, number];
    const [tokens, used] = expectSpec("moe_matmul ids", ids, "i32", [-1, -1]).shape as [number, number];
    const rows = expectSpec("moe_matmul x", x, "f32", [-1, columns]).shape[0]!;
    if (rows !== tokens && rows !== tokens * used) {
      throw unexpected("invalid_argument", "moe_matmul", `${tokens} or ${tokens * used} rows`, describe(x));
    }
    if (bias) expectSpec("moe_matmul bias", bias, "f32", [experts, outputs]);
    return [f32Spec(tokens * used, outputs)];
  },
  scratchBytes([x, w, , ids]) {
    const slots = ids!.shape[0]! * ids!.shape[1]!;
    return roundedBytes(x!, w!) + 64 + 4 * (slots + 3 * w!.shape[0]! + 16);
  },
  cost([x, w, bias, ids], _p, [y]) {
    const [experts, outputs, columns] = w!.shape as [number, number, number];
    const slots = ids!.shape[0]! * ids!.shape[1]!;
    const read = Math.min(1, slots / experts); // at most this share of the experts is read
    return {
      flops: 2 * slots * outputs * columns,
      bytes: totalBytes(x, ids, y) + read * totalBytes(w, bias),
    };
  },
  arguments([y], [x, w, bias, ids], _p, scratch) {
    const [experts, outputs, columns] = w!.shape as [number, number, number];
    const [tokens, used] = ids!.shape as [number, number];
    return [
      ...[y!.address, x!.address, w!.address, bias!.address, ids!.address, scratch.address],
      ...[
        tokens,
        used,
        experts,
        outputs,
        columns,
        dtypeCode(w!),
        x!.shape[0] === tokens ? 0 : 1,
        scratch.bytes,
      ],
    ];
  },
};
