import { unexpected } from "../../core/error.ts";
import { elementCount } from "../../core/shape.ts";
import type { Op, TensorSpec } from "../op.ts";
import { elementWise, expectReal, plainSpec, realCode, trainingBackends } from "../real.ts";

export const activationKinds = { silu: 0, gelu: 1, clamped: 2, relu2: 3 } as const;

export type ActivationParams = {
  readonly kind: keyof typeof activationKinds;
  /** `clamped` only: slope of the sigmoid and limit of GPT-OSS. */
  readonly alpha?: number;
  readonly limit?: number;
};

const kindArguments = (code: number, x: TensorSpec, p: ActivationParams): number[] => [
  ...[activationKinds[p.kind], code, elementCount(x.shape), p.alpha ?? 0, p.limit ?? 0],
];
const params = ["kind", "alpha", "limit"];

function checked(x: TensorSpec | undefined, up: TensorSpec | undefined, p: ActivationParams): TensorSpec {
  const spec = expectReal("activation", x, x?.shape ?? []);
  if (up) expectReal("activation up", up, spec.shape, spec);
  if (p.kind === "clamped" && (!up || p.alpha === undefined || p.limit === undefined)) {
    throw unexpected("invalid_argument", "activation", "up, alpha and limit for the clamped kind", "less");
  }
  return plainSpec(spec.dtype, ...spec.shape);
}

export const activationGrad: Op<ActivationParams> = {
  name: "activation_grad",
  summary: "gradient of activation",
  backends: trainingBackends,
  inputs: [{ name: "dy" }, { name: "x" }, { name: "up", optional: true }],
  params,
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "f64", "f64", "f64"],
  outputs([dy, x, up], p) {
    const spec = checked(x, up, p);
    expectReal("activation_grad dy", dy, spec.shape, spec);
    return up ? [spec, spec] : [spec];
  },
  cost: elementWise(20),
  arguments: ([dx, dup], [dy, x, up], p) => [
    ...[dx!.address, dup?.address ?? 0, dy!.address, x!.address, up!.address],
    ...kindArguments(realCode(dx, dup, dy, x, up), x!, p),
  ],
};

/** y = act(x) * up, or act(x): SwiGLU, GeGLU, GPT-OSS's clamped SwiGLU, and plain SiLU, GELU and squared ReLU. */
export const activation: Op<ActivationParams> = {
  name: "activation",
  summary: "activations, gated or not, for training",
  backends: trainingBackends,
  inputs: [{ name: "x" }, { name: "up", optional: true }],
  params,
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "f64", "f64", "f64"],
  outputs: ([x, up], p) => [checked(x, up, p)],
  cost: elementWise(10),
  saves: ["x", "up"],
  grad: (f, [dy], { x, up }, p) => f(activationGrad, [dy, x, up], p),
  arguments: ([y], [x, up], p) => [
    ...[y!.address, x!.address, up!.address, ...kindArguments(realCode(y, x, up), x!, p)],
  ],
};
