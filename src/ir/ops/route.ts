import { unexpected } from "../../core/error.ts";
import type { Op, TensorSpec } from "../op.ts";
import { elementWise, expectReal, plainSpec, trainingBackends } from "../real.ts";
import { dtypeCode, expectSpec, i32Spec, totalBytes } from "../spec.ts";

/** `softmax`: weights over all experts; `softmaxOfChosen`: over those used (GPT-OSS). */
export type RouteParams = { readonly used: number; readonly mode: "softmax" | "softmaxOfChosen" };

const modes = { softmax: 1, softmaxOfChosen: 3 } as const;
const mostExperts = 1024;

function sizes(logits: TensorSpec | undefined, used: number): readonly [tokens: number, experts: number] {
  const [tokens, experts] = expectReal("route logits", logits, [-1, -1]).shape as [number, number];
  if (!(used >= 1 && used <= experts && experts <= mostExperts)) {
    throw unexpected(
      "invalid_argument",
      "route",
      `1..${experts} of at most ${mostExperts} experts used`,
      used,
    );
  }
  return [tokens, experts];
}

export const routeGrad: Op<RouteParams> = {
  name: "route_grad",
  summary: "gradient of route's weights to the logits",
  backends: trainingBackends,
  inputs: [{ name: "dweights" }, { name: "weights" }, { name: "ids" }, { name: "logits" }],
  params: ["used", "mode"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32"],
  outputs([dweights, weights, ids, logits], p) {
    const [tokens, experts] = sizes(logits, p.used);
    for (const t of [dweights, weights]) expectReal("route_grad weights", t, [tokens, p.used], logits);
    expectSpec("route_grad ids", ids, "i32", [tokens, p.used]);
    return [plainSpec(logits!.dtype, tokens, experts)];
  },
  cost: elementWise(6),
  arguments: ([dlogits], [dweights, weights, ids, logits], p) => [
    ...[dlogits!.address, dweights!.address, weights!.address, ids!.address, logits!.address],
    ...[logits!.shape[0]!, logits!.shape[1]!, p.used, modes[p.mode], dtypeCode(logits!)],
  ],
};

/** The `used` largest of each row of logits: ids i32 [T, k], descending, the lower id on ties, and weights [T, k]. */
export const route: Op<RouteParams> = {
  name: "route",
  summary: "choice of experts and their weights, for training",
  backends: trainingBackends,
  inputs: [{ name: "logits" }],
  params: ["used", "mode"],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32"],
  outputs([logits], p) {
    const [tokens] = sizes(logits, p.used);
    return [i32Spec(tokens, p.used), plainSpec(logits!.dtype, tokens, p.used)];
  },
  cost: elementWise(6),
  saves: ["logits", "out0", "out1"],
  grad: (f, [, dweights], { logits, out0, out1 }, p) =>
    dweights ? f(routeGrad, [dweights, out1, out0, logits], p) : [],
  arguments: ([ids, weights], [logits], p) => [
    ...[ids!.address, weights!.address, logits!.address, logits!.shape[0]!, logits!.shape[1]!],
    ...[p.used, modes[p.mode], dtypeCode(logits!)],
  ],
};

/** Slots token*k + j sorted by expert, the place of each slot in that order, and where each expert begins, i32 [E + 1]. */
export const expertOrder: Op<{ readonly experts: number }> = {
  name: "expert_order",
  summary: "slots of tokens sorted by expert",
  backends: trainingBackends,
  inputs: [{ name: "ids" }],
  params: ["experts"],
  signature: ["ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32"],
  outputs([ids], { experts }) {
    const [tokens, used] = expectSpec("expert_order ids", ids, "i32", [-1, -1]).shape as [number, number];
    return [i32Spec(tokens * used), i32Spec(tokens * used), i32Spec(experts + 1)];
  },
  cost: (inputs, _p, outputs) => ({ flops: 0, bytes: totalBytes(...inputs, ...outputs) }),
  arguments: ([slots, places, starts], [ids], { experts }) => [
    ...[slots!.address, places!.address, starts!.address, ids!.address],
    ...[ids!.shape[0]!, ids!.shape[1]!, experts],
  ],
};

export const balanceLossGrad: Op<Record<string, never>> = {
  name: "balance_loss_grad",
  summary: "gradient of balance_loss",
  backends: trainingBackends,
  inputs: [{ name: "dloss" }, { name: "logits" }, { name: "ids" }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"],
  outputs([dloss, logits, ids]) {
    const [tokens, experts] = expectReal("balance_loss_grad logits", logits, [-1, -1]).shape as [
      number,
      number,
    ];
    expectReal("balance_loss_grad dloss", dloss, [1], logits);
    expectSpec("balance_loss_grad ids", ids, "i32", [tokens, -1]);
    return [plainSpec(logits!.dtype, tokens, experts)];
  },
  cost: elementWise(6),
  arguments: ([dlogits], [dloss, logits, ids]) => [
    ...[dlogits!.address, dloss!.address, logits!.address, ids!.address],
    ...[logits!.shape[0]!, logits!.shape[1]!, ids!.shape[1]!, dtypeCode(logits!)],
  ],
};

/** [1]: experts * sum over experts of (share of slots) * (mean probability); 1 when the load is even. */
export const balanceLoss: Op<Record<string, never>> = {
  name: "balance_loss",
  summary: "load-balance loss of a router",
  backends: trainingBackends,
  inputs: [{ name: "logits" }, { name: "ids" }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"],
  outputs([logits, ids]) {
    const tokens = expectReal("balance_loss logits", logits, [-1, -1]).shape[0]!;
    expectSpec("balance_loss ids", ids, "i32", [tokens, -1]);
    return [plainSpec(logits!.dtype, 1)];
  },
  cost: ([logits]) => ({ flops: 6 * logits!.shape[0]! * logits!.shape[1]!, bytes: totalBytes(logits) }),
  saves: ["logits", "ids"],
  grad: (f, [dloss], { logits, ids }) => f(balanceLossGrad, [dloss, logits, ids], {}),
  arguments: ([loss], [logits, ids]) => [
    ...[loss!.address, logits!.address, ids!.address],
    ...[logits!.shape[0]!, logits!.shape[1]!, ids!.shape[1]!, dtypeCode(logits!)],
  ],
};
