import type { Op } from "../op.ts";
import { elementWise, expectReal, plainSpec, trainingBackends } from "../real.ts";
import { dtypeCode } from "../spec.ts";

/** `center`: layer norm; otherwise RMS norm. */
export type NormParams = { readonly center: boolean; readonly eps: number };

export const normGrad: Op<Pick<NormParams, "center">> = {
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
  params: ["center"],
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
    ...[x!.shape[0]!, x!.shape[1]!, p.center ? 1 : 0, dtypeCode(x!)],
  ],
};

/** y = (x - mean) / sqrt(var + eps) * w + b over each row, or x / sqrt(mean(x^2) + eps) * w; not in place, unlike rms_norm. */
export const norm: Op<NormParams> = {
  name: "norm",
  summary: "layer norm and RMS norm of rows, for training",
  backends: trainingBackends,
  inputs: [{ name: "x" }, { name: "w", optional: true }, { name: "b", optional: true }],
  params: ["center", "eps"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "f64"],
  outputs([x, w, b]) {
    const [rows, width] = expectReal("norm", x, [-1, -1]).shape as [number, number];
    if (w) expectReal("norm w", w, [width], x);
    if (b) expectReal("norm b", b, [width], x);
    return [plainSpec(x!.dtype, rows, width), plainSpec(x!.dtype, rows, 2)];
  },
  cost: elementWise(6),
  saves: ["x", "w", "out1"],
  grad(f, [dy], { x, w, out1 }, { center }, { wanted, sum }) {
    const dw = wanted(1) ? sum(1) : undefined;
    const db = wanted(2) ? sum(2) : undefined;
    const [dx] = f(normGrad, [dy, x, w, out1, dw, db], { center });
    return [dx, dw, db];
  },
  arguments: ([y, stats], [x, w, b], p) => [
    ...[y!.address, stats!.address, x!.address, w!.address, b!.address],
    ...[x!.shape[0]!, x!.shape[1]!, p.center ? 1 : 0, dtypeCode(x!), p.eps],
  ],
};
