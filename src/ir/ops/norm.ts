import type { Op } from "../op.ts";
import { elementWise, expectReal, plainSpec, realCode, trainingBackends, wideType } from "../real.ts";

/** `center`: layer norm; otherwise RMS norm. `dtype`: of the result, absent: x's. */
export type NormParams = {
  readonly center: boolean;
  readonly eps: number;
  readonly dtype?: "f32" | "bf16";
};

/** `add`: the gradient is added to input `into`. */
export type NormGradParams = { readonly center: boolean; readonly add: boolean };

export const normGrad: Op<NormGradParams> = {
  name: "norm_grad",
  summary: "gradient of norm; those of weight and bias are added",
  backends: trainingBackends,
  inputs: [
    ...[{ name: "dy" }, { name: "x" }, { name: "w", optional: true }, { name: "stats" }],
    ...[
      { name: "dw", optional: true },
      { name: "db", optional: true },
    ],
  ],
  params: ["center", "add"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"],
  outputs([dy, x, w, stats, dw, db]) {
    const [rows, width] = expectReal("norm_grad x", x, [-1, -1]).shape as [number, number];
    expectReal("norm_grad dy", dy, [rows, width], x);
    expectReal("norm_grad stats", stats, [rows, 2], x);
    for (const v of [w, dw, db]) if (v) expectReal("norm_grad w", v, [width], x);
    return [plainSpec(x!.dtype, rows, width)];
  },
  cost: elementWise(10),
  arguments: ([dx], [dy, x, w, stats, dw, db], p) => [
    ...[dx!.address, dw!.address, db!.address, dy!.address, x!.address, w!.address, stats!.address],
    ...[x!.shape[0]!, x!.shape[1]!, (p.center ? 1 : 0) + (p.add ? 2 : 0)],
    realCode(dx, dw, db, dy, x, w, stats),
  ],
};

/** y = (x - mean) / sqrt(var + eps) * w + b over each row, or x / sqrt(mean(x^2) + eps) * w; not in place, unlike rms_norm. */
export const norm: Op<NormParams> = {
  name: "norm",
  summary: "layer norm and RMS norm of rows, for training",
  backends: trainingBackends,
  inputs: [{ name: "x" }, { name: "w", optional: true }, { name: "b", optional: true }],
  params: ["center", "eps", "dtype"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "f64"],
  outputs([x, w, b], p) {
    const [rows, width] = expectReal("norm", x, [-1, -1]).shape as [number, number];
    if (w) expectReal("norm w", w, [width], x);
    if (b) expectReal("norm b", b, [width], x);
    return [plainSpec(p.dtype ?? x!.dtype, rows, width), plainSpec(wideType(x!), rows, 2)];
  },
  cost: elementWise(6),
  saves: ["x", "w", "out1"],
  grad(f, [dy], { x, w, out1 }, { center }, { wanted, sum, place }) {
    const dw = wanted(1) ? sum(1) : undefined;
    const db = wanted(2) ? sum(2) : undefined;
    const { into, add } = place(0);
    f(normGrad, [dy, x, w, out1, dw, db], { center, add }, [into]);
    return [into, dw, db];
  },
  arguments: ([y, stats], [x, w, b], p) => [
    ...[y!.address, stats!.address, x!.address, w!.address, b!.address],
    ...[x!.shape[0]!, x!.shape[1]!, p.center ? 1 : 0, realCode(y, stats, x, w, b), p.eps],
  ],
};
