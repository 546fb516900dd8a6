import { elementCount } from "../../core/shape.ts";
import type { Op } from "../op.ts";
import { expectSpec, totalBytes } from "../spec.ts";

/** y = cap * tanh(x / cap). */
export const softcap: Op<{ readonly cap: number }> = {
  name: "softcap",
  summary: "soft cap of logits",
  inputs: [{ name: "x" }],
  params: ["cap"],
  signature: ["ptr", "ptr", "f64", "f32"],
  outputs([x]) {
    const { shape } = expectSpec("softcap", x, "f32", x?.shape ?? []);
    return [{ dtype: "f32", shape, packed: false }];
  },
  cost: ([x], _p, [y]) => ({ flops: 10 * elementCount(y!.shape), bytes: totalBytes(x, y) }),
  arguments: ([y], [x], p) => [y!.address, x!.address, elementCount(y!.shape), p.cap],
};
