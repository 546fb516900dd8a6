import type { Op } from "../op.ts";
import { expectSpec, totalBytes } from "../spec.ts";

/** sum = x + delta (written over x); y = RMS norm of sum times w. Twin: add, then rms_norm. */
export const addRmsNorm: Op<{ readonly eps: number }> = {
  name: "add_rms_norm",
  summary: "residual add and the norm that follows it",
  inputs: [{ name: "x" }, { name: "delta" }, { name: "w" }],
  params: ["eps"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "f32"],
  inPlace: 0,
  outputs([x, delta, w]) {
    const { shape } = expectSpec("add_rms_norm", x, "f32", [-1, -1]);
    expectSpec("add_rms_norm delta", delta, "f32", shape);
    expectSpec("add_rms_norm w", w, "f32", [shape[1]!]);
    const spec = { dtype: "f32", shape, packed: false } as const;
    return [spec, spec];
  },
  cost: ([x, delta, w], _p, [sum, y]) => ({
    flops: 5 * x!.shape[0]! * x!.shape[1]!,
    bytes: totalBytes(x, delta, w, sum, y),
  }),
  arguments: ([sum, y], [x, delta, w], p) => {
    const [rows, width] = x!.shape as [number, number];
    return [sum!.address, y!.address, x!.address, delta!.address, w!.address, rows, width, p.eps];
  },
};
