import { unexpected } from "../../core/error.ts";
import type { Op, TensorSpec } from "../op.ts";
import { expectReal, plainSpec, realCode, trainingBackends, wideType } from "../real.ts";
import { expectSpec, totalBytes } from "../spec.ts";
import { columnSum } from "./column_sum.ts";

/** forward: c = a w[e]^T + bias[e]; input: c = a w[e]; weight: c[e] += a[e]^T w[e], for the rows of each expert e. */
export type GroupedGemmParams = {
  readonly mode: "forward" | "input" | "weight";
};

const modes = { forward: 0, input: 1, weight: 2 } as const;
const panel = 48;

type Sizes = {
  readonly rows: number;
  readonly experts: number;
  readonly outputs: number;
  readonly columns: number;
};

function sizes(inputs: readonly (TensorSpec | undefined)[], p: GroupedGemmParams): Sizes {
  const [a, w, , starts] = inputs;
  const [rows, inner] = expectReal("grouped_gemm a", a, [-1, -1]).shape as [number, number];
  const experts = expectSpec("grouped_gemm starts", starts, "i32", [-1]).shape[0]! - 1;
  if (p.mode === "weight") {
    const columns = expectReal("grouped_gemm w", w, [rows, -1], a).shape[1]!;
    return { rows, experts, outputs: inner, columns };
  }
  const [, outputs, columns] = expectReal("grouped_gemm w", w, [experts, -1, -1], a).shape as number[];
  if (inner !== (p.mode === "forward" ? columns : outputs)) {
    throw unexpected("invalid_argument", "grouped_gemm", `rows of ${columns} or ${outputs}`, inner);
  }
  return { rows, experts, outputs: outputs!, columns: columns! };
}

/** A matrix per expert times the rows that were sorted to it by `expert_order`. */
export const groupedGemm: Op<GroupedGemmParams> = {
  name: "grouped_gemm",
  summary: "products of rows grouped by expert, for training",
  backends: trainingBackends,
  inputs: [
    { name: "a" },
    { name: "w" },
    { name: "bias", optional: true },
    { name: "starts" },
    { name: "c", optional: true },
  ],
  params: ["mode"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "i32", "f64"],
  outputs(inputs, p) {
    const { rows, experts, outputs, columns } = sizes(inputs, p);
    const [a, , bias, , c] = inputs;
    if (bias) expectReal("grouped_gemm bias", bias, [experts, outputs], a);
    if (p.mode === "weight") {
      expectReal("grouped_gemm c", c, [experts, outputs, columns], a);
      return [plainSpec(wideType(a!), experts, outputs, columns)];
    }
    return [plainSpec(a!.dtype, rows, p.mode === "forward" ? outputs : columns)];
  },
  scratchBytes(inputs, p) {
    const { rows, outputs, columns } = sizes(inputs, p);
    const wide = Math.max(outputs, columns);
    return inputs[0]!.dtype === "f64" ? 0 : Math.ceil(wide / panel) * panel * Math.max(wide, rows) * 4;
  },
  cost(inputs, p, [c]) {
    const { rows, outputs, columns } = sizes(inputs, p);
    return { flops: 2 * rows * outputs * columns, bytes: totalBytes(inputs[0], inputs[1], inputs[2], c) };
  },
  saves: ["a", "w", "starts"],
  grad(f, [dc], { a, w, starts }, p, { wanted, sum }) {
    if (p.mode !== "forward")
      throw unexpected("unsupported", "grouped_gemm", "mode forward on a tape", p.mode);
    const da = wanted(0) ? f(groupedGemm, [dc, w, undefined, starts], { mode: "input" })[0] : undefined;
    if (wanted(1)) f(groupedGemmAdd, [dc, a, undefined, starts, sum(1)], { mode: "weight" });
    if (wanted(2)) f(columnSum, [sum(2), dc, starts], {});
    return [da, wanted(1) ? sum(1) : undefined, wanted(2) ? sum(2) : undefined];
  },
  arguments([c], inputs, p, scratch) {
    const [a, w, bias, starts] = inputs;
    const { rows, experts, outputs, columns } = sizes(inputs, p);
    return [
      ...[c!.address, a!.address, w!.address, bias!.address, starts!.address, scratch.address],
      ...[modes[p.mode], rows, experts, outputs, columns, realCode(c, a, w, bias), scratch.bytes],
    ];
  },
};

/** Mode `weight`, added to its input c. */
export const groupedGemmAdd: Op<GroupedGemmParams> = { ...groupedGemm, inPlace: 4 };
