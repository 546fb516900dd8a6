import { unexpected } from "../../core/error.ts";
import { elementCount } from "../../core/shape.ts";
import type { Op } from "../op.ts";
import { elementWise, expectReal, plainSpec, realCode, trainingBackends } from "../real.ts";
import { describe, dtypeCode } from "../spec.ts";

/** y = x as another float type, to the nearest even. Gradients stay in f32 (f64 where x is), so they pass as they are. */
export const cast: Op<{ readonly dtype: "f32" | "f64" | "bf16" }> = {
  name: "cast",
  summary: "conversion between f32, f64 and bf16",
  backends: trainingBackends,
  inputs: [{ name: "x" }],
  params: ["dtype"],
  signature: ["ptr", "ptr", "i32", "i32", "f64"],
  outputs([x], p) {
    if (!x || x.packed || !["f32", "f64", "bf16"].includes(x.dtype)) {
      throw unexpected("invalid_argument", "cast", "f32, f64 or bf16", describe(x));
    }
    return [plainSpec(p.dtype, ...x.shape)];
  },
  cost: elementWise(1),
  saves: ["x"],
  grad(f, [dy], { x }) {
    const dtype = x!.dtype === "f64" ? "f64" : "f32";
    return dy!.dtype === dtype ? [dy] : f(cast, [dy], { dtype });
  },
  arguments: ([y], [x]) => [y!.address, x!.address, dtypeCode(x!), dtypeCode(y!), elementCount(x!.shape)],
};

/** Sets every element, in place. */
export const fill: Op<{ readonly value: number }> = {
  name: "fill",
  summary: "one value everywhere, in place",
  backends: trainingBackends,
  inputs: [{ name: "y" }],
  params: ["value"],
  signature: ["ptr", "i32", "f64", "f64"],
  inPlace: 0,
  outputs: ([y]) => [expectReal("fill", y, y?.shape ?? [])],
  cost: elementWise(0),
  arguments: ([y], _inputs, p) => [y!.address, realCode(y), elementCount(y!.shape), p.value],
};
