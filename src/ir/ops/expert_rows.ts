import { unexpected } from "../../core/error.ts";
import type { Op, TensorSpec } from "../op.ts";
import { elementWise, expectReal, plainSpec, realCode, trainingBackends, wideType } from "../real.ts";
import { expectSpec } from "../spec.ts";

/** Experts that each token uses. */
export type SlotParams = { readonly used: number };

function slotRows(where: string, x: TensorSpec | undefined, places: TensorSpec | undefined, used: number) {
  const [slots, width] = expectReal(where, x, [-1, -1]).shape as [number, number];
  expectSpec(`${where} places`, places, "i32", [slots]);
  if (slots % used !== 0) throw unexpected("invalid_argument", where, `slots in multiples of ${used}`, slots);
  return [slots / used, width] as const;
}

export const expertRowsGrad: Op<SlotParams> = {
  name: "expert_rows_grad",
  summary: "gradient of expert_rows: the sum of each token's slots",
  backends: trainingBackends,
  inputs: [{ name: "dy" }, { name: "places" }],
  params: ["used"],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"],
  outputs([dy, places], { used }) {
    return [plainSpec(dy!.dtype, ...slotRows("expert_rows_grad", dy, places, used))];
  },
  cost: elementWise(1),
  arguments: ([dx], [dy, places], { used }) => [
    ...[dx!.address, dy!.address, places!.address, dx!.shape[0]!, used, dx!.shape[1]!, realCode(dx, dy)],
  ],
};

/** y [T*k, D]: the row of each slot's token, in the order of `expert_order`. */
export const expertRows: Op<SlotParams> = {
  name: "expert_rows",
  summary: "rows of tokens in the order of their experts",
  backends: trainingBackends,
  inputs: [{ name: "x" }, { name: "slots" }, { name: "places" }],
  params: ["used"],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"],
  outputs([x, slots, places], { used }) {
    const [tokens, width] = expectReal("expert_rows", x, [-1, -1]).shape as [number, number];
    for (const t of [slots, places]) expectSpec("expert_rows slots", t, "i32", [tokens * used]);
    return [plainSpec(x!.dtype, tokens * used, width)];
  },
  cost: elementWise(0),
  saves: ["places"],
  grad: (f, [dy], { places }, p) => f(expertRowsGrad, [dy, places], p),
  arguments: ([y], [x, slots], { used }) => [
    ...[y!.address, x!.address, slots!.address, x!.shape[0]!, used, x!.shape[1]!, realCode(y, x)],
  ],
};

export const expertCombineGrad: Op<SlotParams> = {
  name: "expert_combine_grad",
  summary: "gradient of expert_combine to rows and weights",
  backends: trainingBackends,
  inputs: [{ name: "dy" }, { name: "x" }, { name: "weights" }, { name: "places" }],
  params: ["used"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"],
  outputs([dy, x, weights, places], { used }) {
    const [tokens, width] = slotRows("expert_combine_grad", x, places, used);
    expectReal("expert_combine_grad dy", dy, [tokens, width], x);
    expectReal("expert_combine_grad weights", weights, [tokens, used], x);
    return [plainSpec(x!.dtype, tokens * used, width), plainSpec(wideType(x!), tokens, used)];
  },
  cost: elementWise(3),
  arguments: ([dx, dweights], [dy, x, weights, places], { used }) => [
    ...[dx!.address, dweights!.address, dy!.address, x!.address, weights!.address, places!.address],
    ...[dy!.shape[0]!, used, dy!.shape[1]!, realCode(dx, dweights, dy, x, weights)],
  ],
};

/** y [T, D]: each token's slots, which lie in the order of `expert_order`, by its weights [T, k]. */
export const expertCombine: Op<SlotParams> = {
  name: "expert_combine",
  summary: "weighted sum of each token's experts, for training",
  backends: trainingBackends,
  inputs: [{ name: "x" }, { name: "weights" }, { name: "places" }],
  params: ["used"],
  signature: ["ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"],
  outputs([x, weights, places], { used }) {
    const [tokens, width] = slotRows("expert_combine", x, places, used);
    expectReal("expert_combine weights", weights, [tokens, used], x);
    return [plainSpec(x!.dtype, tokens, width)];
  },
  cost: elementWise(2),
  saves: ["x", "weights", "places"],
  grad: (f, [dy], { x, weights, places }, p) => f(expertCombineGrad, [dy, x, weights, places], p),
  arguments: ([y], [x, weights, places], { used }) => [
    ...[y!.address, x!.address, weights!.address, places!.address],
    ...[y!.shape[0]!, used, y!.shape[1]!, realCode(y, x, weights)],
  ],
};
