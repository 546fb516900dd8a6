import { elementCount } from "../../core/shape.ts";
import type { Op } from "../op.ts";
import { expectSpec, totalBytes } from "../spec.ts";

export type AddScaledParams = { readonly scale: number };

/** y = (a + b) * scale, same shapes. */
export const addScaled: Op<AddScaledParams> = {
  name: "add_scaled",
  summary: "element-wise sum times a constant",
  inputs: [{ name: "a" }, { name: "b" }],
  params: ["scale"],
  signature: ["ptr", "ptr", "ptr", "f64", "f32"],
  outputs([a, b]) {
    const shape = a?.shape ?? [];
    expectSpec("add_scaled a", a, "f32", shape);
    expectSpec("add_scaled b", b, "f32", shape);
    return [{ dtype: "f32", shape, packed: false }];
  },
  cost: ([a, b], _p, [y]) => ({ flops: 2 * elementCount(y!.shape), bytes: totalBytes(a, b, y) }),
  arguments: ([y], [a, b], p) => [y!.address, a!.address, b!.address, elementCount(y!.shape), p.scale],
};
