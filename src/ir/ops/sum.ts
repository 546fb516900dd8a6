import { elementCount } from "../../core/shape.ts";
import type { Op } from "../op.ts";
import { expectReal, plainSpec, realCode, trainingBackends, wideType } from "../real.ts";
import { expectSpec, totalBytes } from "../spec.ts";

type ScaleParams = { readonly scale: number };
const pieceElements = 4096;

/** y of the given shape, every element scale * x[0]. */
export const spread: Op<ScaleParams & { readonly shape: readonly number[] }> = {
  name: "spread",
  summary: "one number times a factor, everywhere",
  backends: trainingBackends,
  inputs: [{ name: "x" }],
  params: ["scale", "shape"],
  signature: ["ptr", "ptr", "i32", "f64", "f64"],
  outputs([x], { shape }) {
    return [plainSpec(expectReal("spread", x, [1]).dtype, ...shape)];
  },
  cost: (_inputs, _p, [y]) => ({ flops: 0, bytes: totalBytes(y) }),
  arguments: ([y], [x], p) => [y!.address, x!.address, realCode(y, x), elementCount(y!.shape), p.scale],
};

/** [1]: scale times the sum of all elements, in one order. */
export const sum: Op<ScaleParams> = {
  name: "sum",
  summary: "sum of all elements times a factor",
  backends: trainingBackends,
  inputs: [{ name: "x" }],
  params: ["scale"],
  signature: ["ptr", "ptr", "i32", "f64", "f64"],
  outputs: ([x]) => [plainSpec(wideType(expectReal("sum", x, x?.shape ?? [])), 1)],
  cost: ([x]) => ({ flops: elementCount(x!.shape), bytes: totalBytes(x) }),
  saves: ["x"],
  grad: (f, [dy], { x }, { scale }) => f(spread, [dy], { scale, shape: x!.shape }),
  arguments: ([y], [x], p) => [y!.address, x!.address, realCode(y, x), elementCount(x!.shape), p.scale],
};

/** f64 [1]: the sum of squares, in one order; part of the global norm. */
export const sumSquares: Op<Record<string, never>> = {
  name: "sum_squares",
  summary: "sum of squares in f64",
  backends: trainingBackends,
  inputs: [{ name: "x" }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "i32", "f64", "f64"],
  outputs([x]) {
    expectReal("sum_squares", x, x?.shape ?? []);
    return [plainSpec("f64", 1)];
  },
  scratchBytes: ([x]) => 8 * Math.ceil(elementCount(x!.shape) / pieceElements),
  cost: ([x]) => ({ flops: 2 * elementCount(x!.shape), bytes: totalBytes(x) }),
  arguments: ([y], [x], _p, scratch) => [
    ...[
      y!.address,
      x!.address,
      scratch.address,
      realCode(undefined, x),
      elementCount(x!.shape),
      scratch.bytes,
    ],
  ],
};

/**
 * factor f32 [1] = min(1, limit / norm) and norm f64 [1], the root of the sum of f64 `squares` [N]; the factor is NaN where the
 * norm or one of `losses` is not finite, and then optimisers change nothing.
 */
export const clipFactor: Op<{ readonly limit: number }> = {
  name: "clip_factor",
  summary: "global norm and what gradients are multiplied by to keep to a limit",
  backends: trainingBackends,
  inputs: [{ name: "squares" }, { name: "losses", optional: true }],
  params: ["limit"],
  signature: ["ptr", "ptr", "ptr", "ptr", "i32", "i32", "f64"],
  outputs([squares, losses]) {
    expectSpec("clip_factor", squares, "f64", [-1]);
    if (losses) expectSpec("clip_factor losses", losses, "f32", losses.shape);
    return [plainSpec("f32", 1), plainSpec("f64", 1)];
  },
  cost: ([squares]) => ({ flops: squares!.shape[0]!, bytes: totalBytes(squares) }),
  arguments: ([factor, norm], [squares, losses], p) => [
    ...[factor!.address, norm!.address, squares!.address, losses!.address, squares!.shape[0]!],
    ...[losses!.address === 0 ? 0 : elementCount(losses!.shape), p.limit],
  ],
};
