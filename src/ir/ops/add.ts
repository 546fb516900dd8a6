import { elementCount } from "../../core/shape.ts";
import type { Op } from "../op.ts";
import { expectSpec, totalBytes } from "../spec.ts";

/** y = a + b, same shapes. */
export const add: Op<Record<string, never>> = {
  name: "add",
  summary: "element-wise sum",
  inputs: [{ name: "a" }, { name: "b" }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "f64"],
  outputs([a, b]) {
    const shape = a?.shape ?? [];
    expectSpec("add a", a, "f32", shape);
    expectSpec("add b", b, "f32", shape);
    return [{ dtype: "f32", shape, packed: false }];
  },
  cost: ([a, b], _p, [y]) => ({ flops: elementCount(y!.shape), bytes: totalBytes(a, b, y) }),
  arguments: ([y], [a, b]) => [y!.address, a!.address, b!.address, elementCount(y!.shape)],
};
