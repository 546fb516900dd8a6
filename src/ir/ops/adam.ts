import { elementCount } from "../../core/shape.ts";
import type { Op, TensorSpec } from "../op.ts";
import { elementWise, plainSpec, trainingBackends } from "../real.ts";
import { expectSpec } from "../spec.ts";

/**
 * Asserts that p and everything of its shape are f32, and the two scalars that live on the device. A factor that is NaN, as
 * clip_factor makes it of what is not finite, changes nothing.
 */
function checked(
  where: string,
  p: TensorSpec | undefined,
  like: readonly (TensorSpec | undefined)[],
  factor: TensorSpec | undefined,
  rates: TensorSpec | undefined,
  rateCount: number,
): readonly [TensorSpec] {
  const spec = expectSpec(where, p, "f32", p?.shape ?? []);
  for (const t of like) if (t) expectSpec(where, t, "f32", spec.shape);
  expectSpec(`${where} factor`, factor, "f32", [1]);
  expectSpec(`${where} rates`, rates, "f64", [rateCount]);
  return [plainSpec("f32", ...spec.shape)];
}

export type AdamParams = {
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly decay: number;
  /** AdamW; otherwise the decay joins the gradient. */
  readonly decoupled: boolean;
};

/** One step of Adam or AdamW over a flat range, p, m and v in place. rates f64 [3]: lr, 1/(1-beta1^t), 1/(1-beta2^t). */
export const adam: Op<AdamParams> = {
  name: "adam",
  summary: "Adam and AdamW over a flat range of parameters, in place",
  backends: trainingBackends,
  inputs: [{ name: "p" }, { name: "m" }, { name: "v" }, { name: "g" }, { name: "factor" }, { name: "rates" }],
  params: ["beta1", "beta2", "eps", "decay", "decoupled"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "i32", "f64", "f64", "f64", "f64", "f64"],
  inPlace: 0,
  outputs: ([p, m, v, g, factor, rates]) => checked("adam", p, [m, v, g], factor, rates, 3),
  cost: elementWise(15, 2),
  arguments: ([p], [, m, v, g, factor, rates], a) => [
    ...[p!.address, m!.address, v!.address, g!.address, factor!.address, rates!.address],
    ...[a.decoupled ? 1 : 0, elementCount(p!.shape), a.beta1, a.beta2, a.eps, a.decay],
  ],
};

/** p -= lr buffer, buffer = momentum buffer + g + decay p; without a buffer, plain descent. rates f64 [1]: lr. */
export const sgd: Op<{ readonly momentum: number; readonly decay: number }> = {
  name: "sgd",
  summary: "gradient descent over a flat range of parameters, in place",
  backends: trainingBackends,
  inputs: [
    { name: "p" },
    { name: "buffer", optional: true },
    { name: "g" },
    { name: "factor" },
    { name: "rates" },
  ],
  params: ["momentum", "decay"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "f64", "f64", "f64"],
  inPlace: 0,
  outputs: ([p, buffer, g, factor, rates]) => checked("sgd", p, [buffer, g], factor, rates, 1),
  cost: elementWise(6, 1),
  arguments: ([p], [, buffer, g, factor, rates], a) => [
    ...[p!.address, buffer!.address, g!.address, factor!.address, rates!.address],
    ...[elementCount(p!.shape), a.momentum, a.decay],
  ],
};

/** buffer = momentum buffer + g in place; returns buffer, or g + momentum buffer (Nesterov). rates f64 [2]: lr, momentum. */
export const momentum: Op<{ readonly nesterov: boolean }> = {
  name: "momentum",
  summary: "momentum of Muon, the buffer in place",
  backends: trainingBackends,
  inputs: [{ name: "buffer" }, { name: "g" }, { name: "factor" }, { name: "rates" }],
  params: ["nesterov"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "i32", "f64"],
  outputs: ([buffer, g, factor, rates]) => checked("momentum", buffer, [g], factor, rates, 2),
  cost: elementWise(5, 1),
  arguments: ([y], [buffer, g, factor, rates], a) => [
    ...[y!.address, buffer!.address, g!.address, factor!.address, rates!.address],
    ...[a.nesterov ? 1 : 0, elementCount(y!.shape)],
  ],
};

/** Each matrix of x [batch, R, C] divided by its Frobenius norm. */
export const unitNorm: Op<{ readonly eps: number }> = {
  name: "unit_norm",
  summary: "matrices divided by their Frobenius norms",
  backends: trainingBackends,
  inputs: [{ name: "x" }],
  params: ["eps"],
  signature: ["ptr", "ptr", "i32", "f64", "f64"],
  outputs: ([x]) => [plainSpec("f32", ...expectSpec("unit_norm", x, "f32", [-1, -1, -1]).shape)],
  cost: elementWise(3),
  arguments: ([y], [x], a) => [
    ...[y!.address, x!.address, x!.shape[0]!, elementCount(x!.shape.slice(1)), a.eps],
  ],
};

/** p = p (1 - lr decay) - lr scale y, in place. rates f64 [2]: lr, momentum. */
export const muonUpdate: Op<{ readonly scale: number; readonly decay: number }> = {
  name: "muon_update",
  summary: "the step of Muon along an orthogonalised direction, in place",
  backends: trainingBackends,
  inputs: [{ name: "p" }, { name: "y" }, { name: "factor" }, { name: "rates" }],
  params: ["scale", "decay"],
  signature: ["ptr", "ptr", "ptr", "ptr", "f64", "f64", "f64"],
  inPlace: 0,
  outputs: ([p, y, factor, rates]) => checked("muon_update", p, [y], factor, rates, 2),
  cost: elementWise(3),
  arguments: ([p], [, y, factor, rates], a) => [
    ...[p!.address, y!.address, factor!.address, rates!.address, elementCount(p!.shape), a.scale, a.decay],
  ],
};
